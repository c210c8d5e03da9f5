"""Memory that one runner takes by many processes: that runner alone is ended, before the machine has none left."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
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


MAPPING = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    print(sum(held[at] for at in range(0, len(held), mmap.PAGESIZE)), flush=True)
    input()
"""


def test_pages_of_a_mapped_file_do_not_count(tmp_path: Path) -> None:
    """A program may map a model that is larger than its bound: the kernel takes such pages back when it needs them."""
    model = tmp_path / "model"
    model.write_bytes(b"x" * (200 << 20))
    command = [sys.executable, "-c", MAPPING, str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert psutil.Process(process.pid).memory_info().rss > 200 << 20
        assert not memory.holds_more([process.pid], None, 100 << 20)
        process.communicate(b"\n")


GIGABYTE = 1 << 30


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("0::/\n", {"memory.max": f"{GIGABYTE}\n"}, GIGABYTE, id="container with cgroup v2"),
        pytest.param("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{GIGABYTE}\n"}, GIGABYTE, id="limit of an outer group"),
        pytest.param(
            "5:cpu:/\n4:cpuset,memory:/docker/1\n0::/\n",
            {"memory/memory.limit_in_bytes": f"{GIGABYTE}\n"},
            GIGABYTE,
            id="container with cgroup v1, whose path is the host's",
        ),
        pytest.param("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, id="no limit"),
        pytest.param("0::/a\n", {"a/memory.max": "max\n"}, None, id="no limit in cgroup v2"),
        pytest.param(None, {}, None, id="no cgroups"),
    ],
)
def test_a_limit_of_the_container_counts_as_its_memory(
    tmp_path: Path, groups: str | None, files: Mapping[str, str], expected: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    if groups is not None:
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert memory.total_bytes(tmp_path) == (expected or psutil.virtual_memory().total)
