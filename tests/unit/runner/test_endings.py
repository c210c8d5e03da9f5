"""How a runner ended, by what the system says of it: whose doing it was, and in which words."""

import signal

import pytest

from distill.processes import End
from distill.rollouts.errors import Cause, ended

GIB = 1024**3


def end(code: int | None = None, number: int | None = None, *, out_of_memory: bool = False) -> End:
    return End(code, number, killed=False, out_of_memory=out_of_memory, peak_memory_bytes=3 * GIB)


class TestEnded:
    @pytest.mark.parametrize(
        ("how", "cause", "reason"),
        [
            (end(0), "exit", "ended with exit code 0"),
            (end(7), "exit", "ended with exit code 7"),
            (end(number=signal.SIGSEGV), "signal", "was killed by signal 11 (SIGSEGV)"),
            (end(number=signal.SIGKILL), "signal", "was killed by signal 9 (SIGKILL)"),
            (end(number=200), "signal", "was killed by signal 200 (unknown)"),
            (end(number=signal.SIGKILL, out_of_memory=True), "out_of_memory", "was killed since memory ran out; it had used 3.0 GiB"),
        ],
    )
    def test_of_one_that_had_greeted_it_is_the_programs(self, how: End, cause: Cause, reason: str) -> None:
        death = ended(how, "its last words", greeted=True)
        assert (death.cause, death.reason, death.tail, death.signal) == (cause, reason, "its last words", how.signal)
        assert death.is_the_programs

    @pytest.mark.parametrize("how", [end(1), end(number=signal.SIGKILL), end(number=signal.SIGKILL, out_of_memory=True)])
    def test_before_that_no_code_of_a_user_has_run(self, how: End) -> None:
        death = ended(how, "", greeted=False)
        assert (death.cause, death.is_the_programs) == ("not_started", False)
        assert death.reason.endswith("before it could be asked anything")
