"""Held-out rows stay held out, or the job says so."""

import copy

from distill.catalog import artifacts
from distill.db import unit_of_work
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.execute.house import SUPPORT, House, rows


def warned(job: Job, code: str) -> list[str]:
    return [warning["message"] for warning in job.warnings if warning["code"] == code]


def validated(house: House, job_id: str) -> Job:
    """Run a job until its warnings are known."""
    return house.run(job_id, until=lambda job: job.step not in (None, Step.VALIDATE))


class TestLockedHoldout:
    def test_a_later_job_that_trains_on_it_says_so(self, house: House) -> None:
        first = house.compile(rows(6), valset=rows(12)[6:])
        assert warned(first, "trains_on_held_out") == []
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, first.id)
        assert artifact is not None
        changed = [{**row, "category": "billing"} for row in rows(9)]
        (message,) = warned(validated(house, house.submit(changed)), "trains_on_held_out")
        assert message.startswith(f"3 of the rows that are trained on (rows 7, 8, 9) were held out for {artifact.id}: ")

    def test_rows_that_stay_out_are_no_trouble_and_neither_is_another_program(self, house: House) -> None:
        house.compile(rows(6), valset=rows(12)[6:])
        assert warned(validated(house, house.submit(rows(6), valset=rows(20)[6:])), "trains_on_held_out") == []
        assert warned(validated(house, house.submit(rows(9), program_name="other")), "trains_on_held_out") == []

    def test_a_deleted_artifact_holds_nothing_out(self, house: House) -> None:
        first = house.compile(rows(6), valset=rows(12)[6:])
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, first.id)
            assert artifact is not None
            artifacts.delete(s, house.project_id, artifact.id)
        assert warned(validated(house, house.submit(rows(9))), "trains_on_held_out") == []


class TestDemos:
    def test_a_demo_that_is_a_held_out_row_is_told(self, house: House) -> None:
        program = copy.deepcopy(SUPPORT)
        program["predictors"][0]["demos"] = [rows(8)[7], rows(3)[2]]
        job = validated(house, house.submit(rows(6), program, valset=rows(12)[6:]))
        (message,) = warned(job, "demos_held_out")
        assert message.startswith("1 demo of the student (classify: 1) is a held-out row (row 2): ")

    def test_demos_from_the_trainset_are_not(self, house: House) -> None:
        program = copy.deepcopy(SUPPORT)
        program["predictors"][0]["demos"] = [rows(3)[2]]
        assert warned(validated(house, house.submit(rows(6), program, valset=rows(12)[6:])), "demos_held_out") == []
