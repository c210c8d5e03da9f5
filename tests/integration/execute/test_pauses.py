"""Jobs that are paused at work, in every step, by real workers: they keep what they have, go on, and pay nothing twice."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from distill.jobs import events, pausing, repository
from distill.jobs.models import Job
from distill.settings import get_settings
from distill.trainers.local import LocalTrainer
from tests.integration.execute.house import House, rows
from tests.integration.execute.test_crashes import REQUEST, ROWS, findings
from tests.support.scripted_lm import ScriptedLM

CALLS_OF_AN_EXAMPLE = 2
HELD = (
    "validate.before_publish",
    "bootstrap.mid_work",
    "prepare.mid_work",
    "assemble.before_publish",
    "train.mid_work",
    "evaluate.mid_work",
    "package.before_publish",
)
LATE_SECONDS = 50.0
"""The teacher's answers, for which nobody waits. A call may take longer."""
LONG = {"n_epochs": 150, "batch_size": 4, "learning_rate": 0.001, "lora_r": 4}


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_TIMERS__BEAT_SECONDS", "0.1")


def pause(house: House, job_id: str) -> Job:
    with unit_of_work() as s:
        return pausing.pause(s, house.project_id, job_id)


def resume(house: House, job_id: str) -> None:
    with unit_of_work() as s:
        assert pausing.resume(s, house.project_id, job_id).status == "queued"


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline, look = time.monotonic() + seconds, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        look.wait(0.02)


def paused_once(house: House, job_id: str, begun: Callable[[], bool]) -> Job:
    """Work until the job is paused, which is asked for as soon as `begun`. What the teacher holds it answers once the pause was heard."""

    def ask() -> None:
        until(begun)
        pause(house, job_id)
        if house.teacher.hold_from is not None:
            wait_heard(job_id)
            house.teacher.hold_from = None

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    job = house.run(job_id, 150, until=lambda job: job.status == "paused")
    asking.join(10)
    return job


def beaten(job_id: str) -> str:
    """The end of its newest lease: it moves with every beat."""
    with unit_of_work() as s:
        return str(s.scalar(text("SELECT max(lease_expires_at) FROM work_items WHERE job_id = :id"), {"id": job_id}))


def wait_heard(job_id: str) -> None:
    """Until its worker has heard what was asked of the job. The first beat may have begun before; the third comes after the answer to the
    second."""
    for _ in range(3):
        now = beaten(job_id)
        until(lambda now=now: beaten(job_id) != now)  # type: ignore[misc]


def unanswered(lm: ScriptedLM) -> bool:
    """Whether all its callers hung up before they had an answer."""
    lm.catch_up()
    return {call.status for call in lm.calls} == {None}


def repeats(lm: ScriptedLM) -> int:
    return len(lm.calls) - len({call.digest for call in lm.calls})


class TestBootstrap:
    def test_what_has_begun_ends_and_is_kept_and_nothing_else_begins(self, house: House) -> None:
        house.teacher.latency, house.teacher.hold_from = 0.1, 12
        job_id = house.submit(rows(40), num_threads=4)
        job = paused_once(house, job_id, lambda: house.teacher.in_flight == 4 and len(house.teacher.calls) == 12)
        assert job.status == "paused"
        paid = len(house.teacher.calls)
        assert paid % CALLS_OF_AN_EXAMPLE == 0, "an example was cut off between its calls"
        assert paid < 40
        with unit_of_work() as s:
            assert not any(item.status == "leased" for item in repository.items(s, job_id))
            kept = s.scalar(text("SELECT count(*) FROM traces"))
        assert kept == paid // CALLS_OF_AN_EXAMPLE

        resume(house, job_id)
        assert house.run(job_id).status == "succeeded"
        assert (len(house.teacher.calls), repeats(house.teacher)) == (40 * CALLS_OF_AN_EXAMPLE, 0)

    def test_a_host_that_answers_too_late_is_not_waited_for(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_TIMERS__FINISH_SECONDS", "0.3")
        get_settings.cache_clear()
        house.teacher.latency = LATE_SECONDS
        job_id = house.submit(rows(4))
        job = paused_once(house, job_id, lambda: house.teacher.in_flight > 0)
        assert job.status == "paused"
        assert unanswered(house.teacher)

    def test_a_cancel_does_not_wait_for_what_a_pause_lets_end(self, house: House) -> None:
        from distill.jobs import service

        house.teacher.latency = LATE_SECONDS
        job_id = house.submit(rows(4))

        def ask() -> None:
            until(lambda: house.teacher.in_flight > 0)
            pause(house, job_id)
            with unit_of_work() as s:
                service.cancel(s, house.project_id, job_id)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        assert house.run(job_id).status == "cancelled"
        assert unanswered(house.teacher)


def start_worker(house: House, job_id: str, markers: Path, hold_at: str = "") -> subprocess.Popen[str]:
    markers.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.integration.execute.worker_process", job_id, str(house.folder)]
    ports = ["--teacher", str(house.teacher.port), "--student", str(house.student.port), "--project", house.project]
    environment = {**os.environ, "STILLHOUSE_HOLD_AT": hold_at, "STILLHOUSE_CRASH_MARKERS": str(markers)}
    return subprocess.Popen([*command, *ports], env=environment, stderr=subprocess.PIPE, text=True)


def ended(worker: subprocess.Popen[str]) -> None:
    _, said = worker.communicate(timeout=90)
    assert worker.returncode == 0, said[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_paused_in_every_step(house: House, tmp_path: Path) -> None:
    """One worker after the other stands at a point of each step, hears of the pause, and goes on."""
    expected = findings(house, house.compile(rows(ROWS), **REQUEST))
    paid = len(house.teacher.calls)

    with House(tmp_path / "pausing", house.teacher, house.student, device="cpu-0", project="pausing") as pausing_house:
        job_id, markers = pausing_house.submit(rows(ROWS), **REQUEST), tmp_path / "markers"
        stood: list[str] = []
        while pausing_house.job(job_id).status != "succeeded":
            worker = start_worker(pausing_house, job_id, markers, ",".join(HELD))
            here = pause_where_it_stands(pausing_house, job_id, worker, markers, stood)
            ended(worker)
            if here == ["package.before_publish"]:
                assert pausing_house.job(job_id).status == "succeeded", "what is finished is published"
            else:
                resume(pausing_house, job_id)
            stood += here

        assert sorted(stood) == sorted(HELD)
        assert findings(pausing_house, pausing_house.job(job_id)) == expected
        # Each request was made once for each of the two houses, and never again.
        assert len(house.teacher.calls) == 2 * paid


def pause_where_it_stands(house: House, job_id: str, worker: subprocess.Popen[str], markers: Path, before: list[str]) -> list[str]:
    """The point, if the worker comes to one: it has heard of the pause before it goes on."""
    until(lambda: worker.poll() is not None or any(point not in before and (markers / point).exists() for point in HELD))
    here = [point for point in HELD if point not in before and (markers / point).exists()]
    for point in here:
        assert pause(house, job_id).status == "running"
        wait_heard(job_id)
        (markers / f"{point}.go").touch()
    return here


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_paused_training_goes_on_from_its_checkpoint(
    database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM, tiny_model: Path
) -> None:
    trainer = LocalTrainer(extra_environment={"OMP_NUM_THREADS": "1", "STILLHOUSE_MODELS": str(tiny_model.parent)})
    with House(tmp_path, teacher, student, trainer=trainer, base_model=f"local/{tiny_model.name}") as house:
        job_id = house.submit(rows(12), train_options=LONG)
        assert paused_once(house, job_id, lambda: bool(curve(job_id))).status == "paused"
        before = curve(job_id)
        assert checkpoints(job_id), "no checkpoint was written at the pause"

        resume(house, job_id)
        job = house.run(job_id, seconds=200)
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            (key,) = repository.fine_tune_jobs(s, job_id)
            (item,) = repository.items(s, job_id, "train")
        steps = [json.loads(line)["step"] for line in house.store.read(str(key.curve)).splitlines()]
        assert (steps[0], steps) == (1, sorted(set(steps)))
        assert min(set(curve(job_id)[len(before) :])) >= checkpoints(job_id)[0], "it began again"
        assert item.attempts == 1


def told(job_id: str, kind: str) -> list[dict[str, Any]]:
    with unit_of_work() as s:
        return [dict(event.data or {}) for event in events.after(s, job_id, 0) if event.type == kind]


def curve(job_id: str) -> list[int]:
    """The training steps that were told of, in order."""
    return [int(data["step"]) for data in told(job_id, "train.curve")]


def checkpoints(job_id: str) -> list[int]:
    return [int(data["step"]) for data in told(job_id, "checkpoint")]
