"""From traces to training files: what is kept, what is not and why, in which files."""

import json
from typing import Any

from distill.catalog import row_facts
from distill.db import unit_of_work
from distill.jobs import repository
from distill.jobs.models import FineTuneJob
from distill.jobs.status import Step
from tests.integration.execute.house import CATEGORIES, House, PretendTrainer, rows


def files(job_id: str) -> dict[str, FineTuneJob]:
    with unit_of_work() as s:
        found = repository.fine_tune_jobs(s, job_id)
        s.expunge_all()
    return {row.predictor: row for row in found}


def report(job_id: str) -> dict[str, Any]:
    with unit_of_work() as s:
        (item,) = repository.items(s, job_id, Step.ASSEMBLE)
        assert item.result is not None
        coverage: dict[str, Any] = item.result["coverage"]
        return coverage


def texts(house: House, digest: str | None) -> list[dict[str, Any]]:
    assert digest is not None
    return [json.loads(line) for line in house.store.read(digest).splitlines()]


def talks(n: int) -> list[dict[str, Any]]:
    """Five messages a conversation."""
    return [{**row, "talk": f"talk {i // 5}"} for i, row in enumerate(rows(n))]


class TestTokens:
    def test_rows_that_are_too_long_are_rejected_with_their_numbers(self, house: House) -> None:
        assert isinstance(house.trainer, PretendTrainer)
        trainset = [*rows(6), {"message": "word " * 200 + "about billing", "category": "billing"}]
        job = house.compile(trainset, multitask=False, train_options={"max_seq_length": 150})
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            rejected = row_facts.every(s, job.id, "rejected")
            assert {(fact.predictor, fact.reason, fact.example_index) for fact in rejected} == {
                ("classify", "too_long", 6),
                ("reply", "too_long", 6),
            }
            assert all("max_seq_length is 150. Rows are never cut." in str(fact.message) for fact in rejected)
        (classify, reply) = report(job.id)["keys"]
        assert classify["predictors"]["classify"]["rejected"] == {"too_long": 1}
        assert reply["tokens"]["max"] <= 150
        assert classify["tokens"]["sum"] >= 6 * classify["tokens"]["p50"] - 6

    def test_a_base_model_that_cannot_be_used_stops_the_job_before_the_teacher(self, house: House) -> None:
        assert isinstance(house.trainer, PretendTrainer)
        house.trainer.unusable = "It is not here."
        job = house.compile(rows(4))
        assert (job.status, job.error and job.error["code"]) == ("failed", "base_model_unusable")
        assert house.teacher.calls == []


class TestGroups:
    def test_a_conversation_is_on_one_side_of_holdout_and_validation(self, house: House) -> None:
        trainset = talks(75)
        talk_of = {row["message"]: row["talk"] for row in trainset}
        job = house.compile(trainset, filter={"group_by": "talk"}, holdout={"fraction": 0.3}, multitask=True)
        assert job.status == "succeeded", job.error
        (file,) = files(job.id).values()
        with unit_of_work() as s:
            asked = {fact.example_index for fact in row_facts.every(s, job.id, "rollout", "teacher:0")}
            held = {fact.example_index for fact in row_facts.every(s, job.id, "rollout", "compiled")}
        assert len(asked) + len(held) == 75
        sides = [{trainset[i]["talk"] for i in side} for side in (asked, held)]
        for digest in (file.training_file, file.validation_file):
            said = "\n".join(message["content"] for text in texts(house, digest) for message in text["prompt"])
            sides.append({talk for message, talk in talk_of.items() if f"{message}\n" in said})
        trained, watched = sides[2:]
        assert sides[0].isdisjoint(sides[1])
        assert trained | watched == sides[0]
        assert trained.isdisjoint(watched)
        assert watched

    def test_held_out_inputs_are_not_trained_on_in_another_conversation(self, house: House) -> None:
        trainset = [{**row, "talk": f"talk {i % 20}"} for i, row in enumerate(rows(10) * 6)]
        job = house.compile(trainset, filter={"group_by": "talk"}, holdout={"fraction": 0.15})
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            asked = {fact.example_index % 10 for fact in row_facts.every(s, job.id, "rollout", "teacher:0")}
            held = {fact.example_index % 10 for fact in row_facts.every(s, job.id, "rollout", "compiled")}
        assert asked.isdisjoint(held)
        assert "held_inputs_left_out" in [warning["code"] for warning in job.warnings]


class TestFiles:
    def test_the_same_job_gives_the_same_bytes(self, house: House) -> None:
        jobs = [house.compile(rows(60), seed=5, multitask=False) for _ in range(2)]
        one, two = ({name: (row.training_file, row.validation_file) for name, row in files(job.id).items()} for job in jobs)
        assert one == two
        assert None not in one["classify"]

    def test_every_label_is_on_both_sides(self, house: House) -> None:
        job = house.compile(rows(90), multitask=False)
        file = files(job.id)["classify"]
        answers = [[text["completion"][0]["content"] for text in texts(house, side)] for side in (file.training_file, file.validation_file)]
        told = [[sum(name in answer for answer in side) for name in CATEGORIES] for side in answers]
        assert told == [[27, 27, 27], [3, 3, 3]]
        (classify, _) = report(job.id)["keys"]
        assert classify["predictors"]["classify"]["labels"] == {"category": {"account": 30, "billing": 30, "technical": 30}}


class TestRefusal:
    def test_a_key_without_rows_stops_the_job_with_the_report(self, house: House) -> None:
        job = house.compile(rows(6), multitask=False, train_options={"max_seq_length": 8})
        assert job.error is not None
        assert job.error["code"] == "no_rows_for_predictor"
        (classify, reply) = job.error["data"]["coverage"]["keys"]
        assert classify["predictors"]["classify"]["rejected"] == {"too_long": 6}
        assert (classify["rows"], reply["rows"]) == (0, 0)
        assert job.error["data"]["coverage"]["passed"] == 6
