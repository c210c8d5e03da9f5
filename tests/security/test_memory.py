"""Memory that one runner takes by many processes: that runner alone is ended, before the machine has none left."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from distill.relay import Relay
from distill.rollouts import RunnerDied, RunnerPool
from distill.sandbox import Limits, memory
from tests.support.installed import PACKAGE, make_runtime
from tests.unit.runner.test_references import describe, rolled

LIMIT_MB = 1500
"""The program's 50 processes take 2,000 MB, the runner itself 300."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    relay = Relay()
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
def pool(relay: Relay, runtime: str) -> Iterator[RunnerPool]:
    with RunnerPool(relay, {"default": runtime}, limits=Limits(memory_mb=LIMIT_MB), references=[PACKAGE]) as opened:
        yield opened


@pytest.mark.slow
def test_many_processes_that_fill_the_memory_end_their_own_runner(pool: RunnerPool, relay: Relay) -> None:
    with pool.runner("one", "job") as greedy, pool.runner("another", "job") as other:
        program = describe(greedy, "hostile:make_hostile")
        with (
            pytest.raises(RunnerDied, match=f"used more than {LIMIT_MB} MB of memory in all its processes together") as death,
            rolled(relay, greedy, program, {"message": "crowds"}),
        ):
            pass
        assert (death.value.cause, death.value.is_the_programs) == ("out_of_memory", True)
        assert other.ask("hello")["protocol"] == 1


SHARING = """
import os, signal
held = b"x" * (200 << 20)
children = [pid for _ in range(4) if (pid := os.fork()) or signal.pause()]
print(*children, flush=True)
input()
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


def test_pages_that_processes_share_count_once() -> None:
    """A program that forks where it has loaded much takes little more."""
    with subprocess.Popen([sys.executable, "-c", SHARING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [parent.pid, *map(int, parent.stdout.readline().split())]
        assert len(pids) == 5
        assert (memory.holds_more(pids, None, 400 << 20), memory.holds_more(pids, None, 100 << 20)) == (False, True)
        parent.communicate(b"\n")
