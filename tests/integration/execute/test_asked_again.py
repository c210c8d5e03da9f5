"""Held-out examples that an LM host did not answer while the server ran them: asked once more before scores are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from distill.execute import rollouts
from distill.jobs.models import Job
from distill.settings import get_settings
from tests.integration.execute.house import House, guesses, knows, rows
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

VALSET = [{"message": f"Held out {number} about account", "category": "account"} for number in range(4)]


@pytest.fixture
def house(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("STILLHOUSE_TIMERS__RETRY_BASE_SECONDS", "3600")
    get_settings.cache_clear()
    monkeypatch.setattr(rollouts, "PAUSE_SECONDS", 0.01)
    with (
        ScriptedLM(answer=knows) as teacher,
        ScriptedLM(answer=busy) as student,
        House(tmp_path, teacher, student, call_seconds=0.5) as opened,
    ):
        yield opened


def busy(ask: Ask) -> Answer:
    return Fail(503, "overloaded", "come again") if "Held out 1 " in ask.inputs["message"] else guesses(ask)


@pytest.mark.parametrize(("is_back", "scored"), [(True, 4), (False, 3)])
def test_an_evaluation_counts_what_a_second_try_answers(house: House, is_back: bool, scored: int) -> None:
    job_id = house.submit(rows(12), valset=VALSET, evaluate={"roles": ["baseline"]})
    house.run(job_id, until=some_were_put_off)
    if is_back:
        house.student.answer = guesses
    with unit_of_work() as s:
        s.execute(text("UPDATE work_items SET run_after = clock_timestamp() WHERE status = 'queued'"))
    job = house.succeed(job_id)
    assert job.evaluation is not None
    assert job.evaluation["baseline"]["n"] == scored


def some_were_put_off(job: Job) -> bool:
    with unit_of_work() as s:
        return bool(s.scalar(text("SELECT count(*) FROM work_items WHERE job_id = :id AND payload->>'again' = 'true'"), {"id": job.id}))
