"""A worker killed at any point: the same traces, the same rows, a succeeded job, and hardly a call paid twice."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distill.catalog import row_facts, traces
from distill.db import unit_of_work
from distill.execute.hooks import POINTS
from distill.jobs import repository
from distill.jobs.models import Job
from tests.integration.execute.house import House, reap, rows

ROWS = 20
WIDTH = 4
CALLS_OF_AN_EXAMPLE = 2
REQUEST: dict[str, Any] = {"valset": rows(ROWS + 6)[ROWS:], "multitask": False, "num_threads": WIDTH}
MANY = 400
WIDE = 16
QUICK = ("bootstrap.mid_work:3", "train.mid_work")


@dataclass(frozen=True)
class Findings:
    """What must not depend on crashes."""

    traces: frozenset[str]
    rows: tuple[str | None, ...]
    files: tuple[str | None, ...]
    score: float


def findings(house: House, job: Job) -> Findings:
    assert job.status == "succeeded", job.error
    assert job.evaluation is not None
    with unit_of_work() as s:
        found = {str(fact.trace_digest) for fact in row_facts.every(s, job.id, "rollout", "teacher:0")}
        assert set(traces.lookup(s, house.project_id, found)) == found
        kept = tuple(fact.row_digest for fact in row_facts.every(s, job.id, "kept"))
        files = tuple(row.training_file for row in repository.fine_tune_jobs(s, job.id))
    return Findings(frozenset(found), kept, files, job.evaluation["compiled"]["score"])


def traces_of_teacher(job: Job) -> set[str]:
    with unit_of_work() as s:
        return {str(fact.trace_digest) for role in ("teacher:0", "teacher") for fact in row_facts.every(s, job.id, "rollout", role)}


def kept_of(house: House, digests: set[str]) -> set[str]:
    """Those of the traces that are committed in the house's project."""
    with unit_of_work() as s:
        return set(traces.lookup(s, house.project_id, digests))


def work(house: House, job_id: str, crash_at: str, markers: Path) -> int:
    """Run a worker process; returns how it ended."""
    markers.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.integration.execute.worker_process", job_id, str(house.folder)]
    ports = ["--teacher", str(house.teacher.port), "--student", str(house.student.port), "--project", house.project]
    runtime = ["--python", house.python, *(f"--reference={name}" for name in house.references)]
    environment = {**os.environ, "STILLHOUSE_CRASH_AT": crash_at, "STILLHOUSE_CRASH_MARKERS": str(markers)}
    done = subprocess.run([*command, *ports, *runtime], env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode in (0, -9), done.stderr[-3000:]
    return done.returncode


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in QUICK else pytest.mark.slow) for point in (*QUICK, *sorted(POINTS - set(QUICK)))]
)
def test_a_worker_killed_at(point: str, house: House, tmp_path: Path) -> None:
    """The bound is counted, not reckoned: calls that the teacher was asked for by whoever died, less those whose traces were kept."""
    unbroken = house.compile(rows(ROWS), **REQUEST)
    expected, paid = findings(house, unbroken), len(house.teacher.calls)
    bought = traces_of_teacher(unbroken)
    assert paid == CALLS_OF_AN_EXAMPLE * len(bought)

    with House(tmp_path / "crashing", house.teacher, house.student, device="cpu-0", project="crashing") as crashing:
        job_id = crashing.submit(rows(ROWS), **REQUEST)
        assert work(crashing, job_id, point, tmp_path / "markers") == -9, f"{point} was not reached"
        if not point.endswith("after_publish"):
            reap()
        house.teacher.catch_up()
        bound = len(house.teacher.calls) - paid - CALLS_OF_AN_EXAMPLE * len(kept_of(crashing, bought))
        assert work(crashing, job_id, point, tmp_path / "markers") == 0

        assert findings(crashing, crashing.job(job_id)) == expected
    assert len(house.teacher.calls) - 2 * paid <= bound


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bootstrap_of_400_killed_in_the_middle_repeats_what_was_in_flight_alone(house: House, tmp_path: Path) -> None:
    """Not what was answered and not yet written, which is counted: calls that the teacher was asked for, less those whose traces were there
    when the worker died."""
    house.teacher.latency = 0.05
    with House(tmp_path / "crashing", house.teacher, house.student, device="cpu-0", project="crashing") as crashing:
        job_id = crashing.submit(rows(MANY), num_threads=WIDE, evaluate={"roles": []}, holdout={"n": 0})
        assert work(crashing, job_id, f"bootstrap.mid_work:{MANY // 2}", tmp_path / "markers") == -9
        reap()
        house.teacher.catch_up()
        asked = {call.digest for call in house.teacher.calls}
        lost = len(asked) - CALLS_OF_AN_EXAMPLE * stored(crashing)
        assert work(crashing, job_id, "", tmp_path / "markers") == 0

        assert crashing.job(job_id).status == "succeeded"
        assert stored(crashing) == MANY
    repeated = len(house.teacher.calls) - CALLS_OF_AN_EXAMPLE * MANY
    print(f"{repeated} of {CALLS_OF_AN_EXAMPLE * MANY} calls were paid twice; {lost} had no trace when the worker died")
    assert repeated <= WIDE < lost < CALLS_OF_AN_EXAMPLE * MANY // 2


def stored(house: House) -> int:
    """Traces that are committed."""
    with unit_of_work() as s:
        return int(s.execute(text("SELECT count(*) FROM traces WHERE project_id = :project"), {"project": house.project_id}).scalar_one())
