"""A runner that dies between an LM's reply and the trace: the reply is on the bill, and is not paid for again."""

import os
import signal
from collections import Counter
from contextlib import suppress
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import text

from distill.db import unit_of_work
from distill.execute import buffer
from distill.jobs.models import Job
from tests.integration.execute.house import House, knows, rows
from tests.support.scripted_lm import Answer, Ask, Hang
from tests.support.server_process import wait_until

pytestmark = pytest.mark.slow

ROWS = 6
CALLS = 2 * ROWS
REQUEST: dict[str, Any] = {"num_threads": 1, "evaluate": {"roles": []}, "holdout": {"n": 0}}


class KillsTheRunner:
    """A teacher that kills the runner at the second question of a rollout, so often about each of these messages, and never answers that
    question: the reply to the first one is paid then, and no trace has it. `asked` counts the first questions by message."""

    def __init__(self, times: dict[int, int]) -> None:
        self._left = {rows(ROWS)[at]["message"]: often for at, often in times.items()}
        self.asked: Counter[str] = Counter()

    def __call__(self, ask: Ask) -> Answer:
        message = ask.inputs["message"]
        if "category" in ask.outputs:
            self.asked[message] += 1
        elif self._left.get(message):
            self._left[message] -= 1
            kill_runners()
            return Hang()
        return knows(ask)


def kill_runners() -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "stillhouse_programs.runner" in child.cmdline():
                os.kill(child.pid, signal.SIGKILL)


def calls(job: Job) -> dict[str, int]:
    """Of the teacher, by kind, over all claims of a job."""
    query = text("SELECT kind, sum(calls) FROM lm_usage WHERE job_id = :job AND role LIKE 'teacher%' GROUP BY kind")
    with unit_of_work() as s:
        return {kind: int(counted) for kind, counted in s.execute(query, {"job": job.id})}


def paid_so_far() -> dict[str, int]:
    with unit_of_work() as s:
        return {kind: int(calls) for kind, calls in s.execute(text("SELECT kind, sum(calls) FROM lm_usage GROUP BY kind"))}


def in_traces(job: Job) -> dict[str, int]:
    """Traces by status, and the calls that they tell of."""
    query = text("SELECT status, count(*), sum((body::jsonb->'usage'->>'calls')::int) FROM traces WHERE job_id = :job GROUP BY status")
    with unit_of_work() as s:
        found = s.execute(query, {"job": job.id}).all()
    return {**{status: int(count) for status, count, _ in found}, "calls": sum(int(asked) for _, _, asked in found)}


def test_what_a_killed_runner_had_been_answered_is_not_asked_again(house: House, redis_url: str) -> None:
    teacher = KillsTheRunner({2: 1})
    house.teacher.answer = teacher
    job = house.compile(rows(ROWS), **REQUEST)
    assert job.status == "succeeded", job.error
    assert set(teacher.asked.values()) == {1}
    assert calls(job) == {"paid": CALLS, "saved": 1}
    assert in_traces(job) == {"ok": ROWS, "calls": CALLS}
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("sh:reply:*") == [], "they are let go when their traces are committed"


def test_what_is_paid_is_on_the_bill_before_its_rollout_ends(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed now leaves no trace; who runs the rollout again finds the reply, and pays nothing for it."""
    monkeypatch.setattr(buffer, "IDLE_SECONDS", 0.1)
    seen: list[dict[str, int]] = []

    def teacher(ask: Ask) -> Answer:
        if "category" not in ask.outputs:
            wait_until(lambda: bool(paid_so_far()), "what was paid is not written down", seconds=50)
            seen.append(paid_so_far())
        return knows(ask)

    house.teacher.answer = teacher
    job = house.compile(rows(1), **REQUEST)
    assert job.status == "succeeded", job.error
    assert seen == [{"paid": 1}]


def test_what_was_paid_for_a_rollout_that_ends_its_process_is_on_the_bill_once(house: House) -> None:
    teacher = KillsTheRunner({3: 99})
    house.teacher.answer = teacher
    job = house.compile(rows(ROWS), **REQUEST)
    assert job.status == "succeeded", job.error
    assert set(teacher.asked.values()) == {1}
    paid = calls(job)
    assert paid["paid"] == CALLS - 1
    assert paid["saved"] >= 1
    assert in_traces(job) == {"ok": ROWS - 1, "failed": 1, "calls": CALLS - 2}


def test_without_kept_replies_it_is_paid_twice_and_billed_twice(house: House) -> None:
    """As before a Redis that is lost: nothing else comes of it."""
    house.close()
    house.open(keeps_replies=False)
    teacher = KillsTheRunner({1: 1})
    house.teacher.answer = teacher
    job = house.compile(rows(ROWS), **REQUEST)
    assert job.status == "succeeded", job.error
    assert sorted(teacher.asked.values()) == [1] * (ROWS - 1) + [2]
    assert calls(job) == {"paid": CALLS + 1}
