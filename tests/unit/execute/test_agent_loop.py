"""What an LM host's agent tells its operator while the host is away."""

from collections.abc import Callable
from typing import cast

import pytest
from structlog.testing import capture_logs

from distill.execute.lm_host import HostUnreachable
from distill.execute.placements import Agent
from workers import lm_agent


class Ticking:
    """An agent whose ticks go as they are written down; the last one ends the loop."""

    def __init__(self, ticks: list[str]) -> None:
        self.ticks = ticks
        self.stop: Callable[[], None] | None = None

    def tick(self) -> None:
        trouble = self.ticks.pop(0)
        if not self.ticks and self.stop:
            self.stop()
        if trouble:
            raise HostUnreachable(trouble)


@pytest.mark.parametrize(
    ("ticks", "told"),
    [
        (["refused"] * 3, ["info: agent waits"]),
        (["refused", "refused", "", "", "refused"], ["info: agent waits", "info: agent goes on", "warning: agent waits"]),
        (["", "refused", "timed out", "timed out"], ["warning: agent waits", "warning: agent waits"]),
        (["", ""], []),
    ],
)
def test_a_trouble_is_told_once_and_is_a_warning_when_the_host_was_there_before(
    monkeypatch: pytest.MonkeyPatch, ticks: list[str], told: list[str]
) -> None:
    monkeypatch.setattr(lm_agent, "PAUSE_SECONDS", 0.0)
    agent = Ticking(list(ticks))
    loop = lm_agent.Loop(cast("Agent", agent), 0.0)
    agent.stop = loop.stop
    with capture_logs() as logs:
        loop.run()
    assert [f"{each['log_level']}: {each['event']}" for each in logs] == told


def test_a_host_that_was_never_reached_is_a_warning_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_agent, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(lm_agent, "LOAD_SECONDS", 0.0)
    agent = Ticking(["refused"] * 3)
    loop = lm_agent.Loop(cast("Agent", agent), 0.0)
    agent.stop = loop.stop
    with capture_logs() as logs:
        loop.run()
    assert [each["log_level"] for each in logs] == ["warning"]
