"""How often something may be asked for while Redis is away: by a clock that only goes on."""

from __future__ import annotations

import time

import pytest

from app import rate
from distill.errors import LimitExceeded
from distill.settings import Settings

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def twice(clock: Clock) -> rate.Rate:
    """Two times a minute, without Redis."""
    return rate.Rate(Settings(redis_url="redis://127.0.0.1:9/0"), 2, "{times} are enough.", clock)


def seconds_left(of: rate.Rate, counted: str) -> float | None:
    with pytest.raises(LimitExceeded) as refused:
        of.check(counted)
    return refused.value.retry_after


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_wall_clock_that_jumps_changes_nothing(twice: rate.Rate, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    twice.check("key")
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    twice.check("key")
    assert seconds_left(twice, "key") == 60


def test_a_minute_begins_with_the_first_and_ends_after_sixty_seconds(twice: rate.Rate, clock: Clock) -> None:
    twice.check("key")
    clock.seconds += 20
    twice.check("key")
    twice.check("another")
    clock.seconds += 39.5
    assert seconds_left(twice, "key") == 1
    clock.seconds += 0.5
    twice.check("key")
    twice.check("key")
    assert seconds_left(twice, "key") == 60
