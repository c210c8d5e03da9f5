"""What the program host's failures are told as."""

from __future__ import annotations

from typing import NoReturn

import pytest

from app.errors import ApiError
from app.hosting import answered
from distill.rollouts import RunnerDied


@pytest.mark.parametrize(
    ("death", "status", "code"),
    [
        (OSError(24, "Too many open files"), 503, "runner_unavailable"),
        (TimeoutError(), 503, "busy"),
        (RunnerDied("exit", "ended with exit code 3"), 422, "program_died"),
        (RunnerDied("out_of_memory", "was ended for its memory"), 422, "program_died"),
        (RunnerDied("stopped", "was stopped"), 503, "runner_died"),
    ],
)
def test_who_would_only_die_again_is_not_asked_to_try_again(death: Exception, status: int, code: str) -> None:
    def ask() -> NoReturn:
        raise death

    with pytest.raises(ApiError) as told:
        answered(ask)
    assert (told.value.status, told.value.code) == (status, code)
    assert ("retry-after" in told.value.headers) == (status == 503)
