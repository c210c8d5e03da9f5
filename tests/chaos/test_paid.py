"""What is excused of calls that were paid twice, on a log and rows that are written down here."""

from __future__ import annotations

import json
import time
from typing import Any, cast

from tests.chaos import paid
from tests.chaos.breaks import WORKER
from tests.chaos.world import Disruption, World
from tests.support.scripted_lm import Call

MINE, OTHER = 11, 12


class Seen:
    """As much of a world as is looked at: one message that the teacher was asked about twice, and traces about it by model."""

    def __init__(self, *, committed: dict[str, float], fault: Disruption, reaped: bool = False) -> None:
        self.timers: dict[str, str] = {}
        self.disruptions = [] if reaped else [fault]
        self.lm = self
        apart = time.time() - time.monotonic()
        self.calls = [_call(at - apart, worker) for at, worker in ((100.0, MINE), (104.0, OTHER))]
        self._traces = [(json.dumps(_trace(model)), at) for model, at in committed.items()]
        self._reaped = [(fault.since + 5, fault.until - 5, f"worker-{fault.pid}-x")] if reaped else []

    def query(self, statement: str) -> list[Any]:
        return self._traces if "FROM traces" in statement else self._reaped


def _call(at: float, worker: int) -> Call:
    content = "[[ ## message ## ]]\nOdd 1\n"
    body = {"model": "big", "messages": [{"role": "user", "content": content}]}
    return Call("digest", body, {WORKER: str(worker)}, at, at + 0.1)


def _trace(model: str) -> dict[str, Any]:
    return {"inputs": {"message": "Odd 1"}, "calls": [{"model": model}]}


def unexcused(**seen: Any) -> list[str]:
    found = paid.count(cast("World", Seen(**seen)))
    assert (found.calls, found.repeats) == (2, 1)
    return found.unexcused


KILL = Disruption("SIGKILL worker-1", 100.05, 102.05, MINE)


def test_a_call_that_a_fault_cut_off_is_excused() -> None:
    assert unexcused(committed={"teacher/big": 104.5}, fault=KILL) == []
    assert unexcused(committed={"teacher/big": 104.5}, fault=KILL, reaped=True) == []


def test_one_that_was_kept_before_or_was_not_hit_is_not() -> None:
    assert len(unexcused(committed={"teacher/big": 100.02}, fault=KILL)) == 1
    assert len(unexcused(committed={"teacher/big": 104.5}, fault=Disruption("SIGKILL worker-2", 100.05, 102.05, OTHER))) == 1
    assert len(unexcused(committed={"teacher/big": 104.5}, fault=Disruption("SIGKILL worker-1", 104.1, 106.1, MINE))) == 1


def test_what_another_model_answered_to_the_same_message_says_nothing_of_it() -> None:
    """The student's trace of a held-out row is often there before the teacher's."""
    assert unexcused(committed={"house/local/tiny": 99.0, "teacher/big": 104.5}, fault=KILL) == []
