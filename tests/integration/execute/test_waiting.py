"""LM hosts that do not take calls for a while: the work waits, at no cost of attempts, and goes on when one of them is answered."""

from typing import Any

import pytest

from distill.catalog import connections, row_facts
from distill.catalog.waits import SAID
from distill.db import unit_of_work
from distill.jobs import events, line, repository
from distill.jobs.models import Job
from tests.integration.execute.house import House, knows, rows
from tests.support.scripted_lm import Answer, Ask, Fail, HangUp


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_TIMERS__CONNECTION_PAUSE_SECONDS", "0.05")
    monkeypatch.setenv("STILLHOUSE_TIMERS__CONNECTION_RETRY_AFTER_CAP_SECONDS", "0.05")


def waits(name: str = "teacher") -> str | None:
    """Why a connection waits."""
    with unit_of_work() as s:
        found = connections.find(s, name)
        assert found is not None
        return found.limited_reason


def why(job_id: str) -> str:
    """As the job says it under `queue`."""
    with unit_of_work() as s:
        return line.waiting(s, [repository.by_id(s, job_id)])[job_id].reason


def attempts(job_id: str) -> set[int]:
    with unit_of_work() as s:
        return {item.attempts for item in repository.items(s, job_id, "bootstrap") if item.status == "queued"}


def told(job: Job) -> list[dict[str, Any] | None]:
    with unit_of_work() as s:
        return [event.data for event in events.after(s, job.id, 0) if event.message.startswith("Waits for")]


class TestAnOutage:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (Fail(429, retry_after=30), "rate_limited"),
            pytest.param(
                Fail(402, "insufficient_quota", "add money at https://pay.test/secret"), "quota_exhausted", marks=pytest.mark.slow
            ),
            (Fail(500), "unavailable"),
            pytest.param(HangUp(), "unavailable", marks=pytest.mark.slow),
        ],
    )
    def test_the_job_waits_without_attempts_and_ends_well(self, house: House, fault: Any, reason: str) -> None:
        house.close()
        house.breaker_seconds = 0.0
        house.open()
        asked = house.teacher.calls

        def answer(ask: Ask) -> Answer:
            if ask.n == 9:
                house.teacher.fault = fault
            return house.teacher.fault or knows(ask)

        house.teacher.answer = answer
        job_id = house.submit(rows(18), num_threads=4, evaluate={"roles": []})
        house.run(job_id, until=lambda job: waits() == reason)
        assert (house.job(job_id).status, why(job_id)) == ("running", f"waiting for teacher: {SAID[reason]}")
        assert attempts(job_id) == {0}
        house.teacher.catch_up()
        refused = len(asked)
        house.teacher.fault = None
        job = house.run(job_id)
        assert (job.status, waits()) == ("succeeded", None), job.error
        assert told(job) == [{"connection": "teacher", "reason": reason}]
        with unit_of_work() as s:
            assert {fact.status for fact in row_facts.every(s, job.id, "rollout", "teacher:0")} == {"ok"}
            assert "secret" not in str([(event.message, event.data) for event in events.after(s, job.id, 0)])
        answered = {call.digest for call in asked[refused:]}
        assert len(asked) - refused == len(answered), "what was answered is not asked again"

    @pytest.mark.slow
    def test_nobody_listens_for_a_while(self, house: House) -> None:
        house.close()
        house.breaker_seconds = 0.0
        house.open()
        house.teacher.__exit__()
        job_id = house.submit(rows(6), evaluate={"roles": []})
        house.run(job_id, until=lambda job: waits() == "unavailable")
        assert attempts(job_id) == {0}
        house.teacher.__enter__()  # on its old port
        job = house.run(job_id)
        assert (job.status, waits()) == ("succeeded", None), job.error

    @pytest.mark.slow
    def test_other_connections_work_goes_on(self, house: House) -> None:
        house.teacher.fault = Fail(429, retry_after=30)
        job_id = house.submit(rows(12), holdout={"n": 4}, evaluate={"roles": ["baseline"]})
        house.run(job_id, until=lambda job: waits() == "rate_limited")

        def is_measured(job: Job) -> bool:
            with unit_of_work() as s:
                return {item.status for item in repository.items(s, job.id, "evaluate") if item.kind == "baseline"} == {"succeeded"}

        assert house.run(job_id, until=is_measured).status == "running"
        assert waits("house") is None
