"""The peak of a process tree, and what the area `scale` makes of its jobs."""

import os
import subprocess
import sys

import pytest

from bench.areas import scale
from bench.areas.scale import Job
from bench.memory import Peak

CHILD = """
import sys
held = bytearray(80 * 2**20)
held[::4096] = b"x" * len(held[::4096])
del held
print("done", flush=True)
sys.stdin.read()
"""


def job(n: int, peak_mb: float, ms: float) -> Job:
    return Job(n, peak_mb, {"bootstrap": 3 * ms / 4, "prepare": ms / 4}, {"prepare": peak_mb})


class TestPeak:
    def test_memory_that_a_child_has_given_back_counts(self) -> None:
        with Peak(os.getpid(), every_seconds=60) as peak:
            before = peak.megabytes
            with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                child.stdout.readline()
                during = peak.megabytes
                child.communicate("")
            assert during - before >= 80
            assert peak.megabytes >= during


class TestFigures:
    def test_growth_is_that_of_the_large_job_over_the_median_of_the_small_ones(self) -> None:
        few, many = [job(10, 100, 4), job(10, 120, 9), job(10, 90, 5)], job(1000, 150, 6)
        memory, wall = scale._memory(few, many), scale._wall(few, many)
        assert (memory.wall.ours, memory.wall.other, memory.details["growth"]) == (150, 100, 1.5)
        assert (wall.wall.ours, wall.wall.other, wall.details["growth"]) == (6, 5, 1.2)

    def test_a_job_that_lost_a_row_gives_no_figure(self) -> None:
        reply = {"rows": 9, "peak_mb": 1.0, "steps": {"bootstrap": 1.0, "prepare": 1.0}, "peak_mb_upto": {}}
        with pytest.raises(RuntimeError, match="9 rows for 10 calls"):
            scale._checked(reply, 10, 10)
