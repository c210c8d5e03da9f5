"""The database is lost in the middle of a work item: it costs no attempt, and nothing is published twice."""

import pytest
from sqlalchemy import text

from distill.db import Session, unit_of_work
from distill.execute.ports import Ports, jobs_over
from distill.execute.run import StepRunner, run_queue
from distill.execute.work import Work
from distill.jobs import events, repository, service
from distill.jobs.claims import StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.execute.house import House, rows
from tests.support.cut_off import CutOff, Moment
from tests.support.databases import forget_settings


def succeed(s: Session, job: Job, _: StepClosed) -> None:
    service.succeed(s, job)


def run(house: House, step: StepRunner) -> None:
    run_queue("rollouts", house.worker, house.ports, house.shift, {Step.VALIDATE: step})


def stands(job_id: str) -> tuple[str, str, int, int]:
    with unit_of_work() as s:
        (item,) = repository.items(s, job_id)
        return repository.by_id(s, job_id).status, item.status, item.attempts, item.losses


class TestLostConnections:
    def test_an_item_is_given_back_without_an_attempt(self, house: House) -> None:
        job_id = house.submit(rows(4))
        tries: list[int] = []

        def step(work: Work, ports: Ports) -> None:
            tries.append(work.claim.attempt)
            if len(tries) < 8:  # more often than an item has attempts
                with unit_of_work() as s:
                    s.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            work.publish(on_closed=succeed)

        run(house, step)
        assert tries == [1] * 8
        assert stands(job_id) == ("succeeded", "succeeded", 1, 0)

    def test_a_statement_that_is_too_slow_spends_one(self, house: House) -> None:
        """Else a job whose statement never passes would go on for ever."""
        job_id = house.submit(rows(4))

        def step(work: Work, ports: Ports) -> None:
            with unit_of_work() as s:
                s.execute(text("SET LOCAL statement_timeout = 1"))
                s.execute(text("SELECT pg_sleep(1)"))

        run(house, step)
        assert stands(job_id) == ("running", "queued", 1, 0)

    def test_while_nobody_can_say_which_jobs_are_over_none_is(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", f"{database}_that_is_not_there")
        forget_settings()
        assert set(jobs_over(["cjob-1"])) == set()

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_publish_whose_commit_is_cut_off_is_there_once(
        self, house: House, database: str, monkeypatch: pytest.MonkeyPatch, moment: Moment
    ) -> None:
        job_id = house.submit(rows(4))
        with CutOff(database) as proxy:
            monkeypatch.setenv("DATABASE_URL", proxy.url)
            forget_settings()

            def step(work: Work, ports: Ports) -> None:
                proxy.armed = moment
                work.publish(on_closed=succeed)

            run(house, step)
            assert proxy.cuts == 1
            assert stands(job_id) == ("succeeded", "succeeded", 1, 0)
            with unit_of_work() as s:
                assert [event.type for event in events.after(s, job_id, 0, 100)].count("done") == 1
