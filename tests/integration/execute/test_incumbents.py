"""A job against what production runs now: the artifact behind an alias, on the same held-out rows."""

import json
from typing import Any

import pytest

from distill.catalog import aliases, artifacts, fine_tuned
from distill.catalog.aliases import Name
from distill.catalog.promotion import Gate
from distill.db import unit_of_work
from distill.errors import Conflict, Invalid
from distill.jobs.models import Job
from tests.integration.execute.house import SUPPORT, House, guesses, rows
from tests.support.scripted_lm import Answer, Ask

PROD = "support@prod"
AGAINST_PROD = {"roles": ["baseline", "compiled"], "incumbent": PROD}


def promote(house: House, job: Job, gate: Gate | None = None) -> str:
    with unit_of_work() as s:
        artifact = artifacts.of_job(s, job.id)
        assert artifact is not None
        aliases.move(s, house.project_id, Name("support", "prod"), artifact.id, None, gate)
        return artifact.id


class TestIncumbent:
    def test_runs_on_the_same_rows_and_is_the_one_to_beat(self, house: House) -> None:
        known: set[str] = set()

        def answer(ask: Ask) -> Answer:
            """The first job's models have learned nothing."""
            return {"category": "account"} if ask.model in known and "category" in ask.outputs else guesses(ask)

        first = house.compile(rows(12), multitask=False)
        known |= set(house.host.loaded)
        artifact_id = promote(house, first)
        house.student.answer = answer
        job = house.compile(rows(11), valset=rows(24)[12:], multitask=False, evaluate=AGAINST_PROD)
        assert job.status == "succeeded", job.error
        evaluation = job.evaluation or {}
        assert evaluation["incumbent"] | {"score": 0.3333, "n": 12} == evaluation["incumbent"]
        assert (evaluation["incumbent"]["artifact"], evaluation["incumbent"]["alias"]) == (artifact_id, PROD)
        assert (evaluation["delta"]["against"], evaluation["delta"]["verdict"]) == ("incumbent", "better")
        assert promote(house, job, Gate(PROD)) != artifact_id

    def test_answers_that_its_own_job_paid_for_are_not_asked_again(self, house: House) -> None:
        first = house.compile(rows(12), valset=rows(12), multitask=False)
        promote(house, first)
        models, asked = set(house.host.loaded), len(house.student.calls)
        job = house.compile(rows(12), valset=rows(12), multitask=False, evaluate=AGAINST_PROD)
        assert job.status == "succeeded", job.error
        assert (job.evaluation or {})["delta"]["verdict"] == "inconclusive"
        assert not models & {call.body["model"] for call in house.student.calls[asked:]}
        with pytest.raises(Conflict) as raised:
            promote(house, job, Gate(PROD))
        assert raised.value.code == "inconclusive"

    def test_a_model_that_is_not_loaded_is_loaded_for_it(self, house: House) -> None:
        promote(house, house.compile(rows(12)))
        (model,) = house.host.loaded
        with unit_of_work() as s:
            fine_tuned.set_placement(s, fine_tuned.of_models(s, [model])[model].id, "unwanted")
        house.agent.tick()
        assert model not in house.host.loaded
        job = house.compile(rows(12), valset=rows(6), evaluate=AGAINST_PROD)
        assert job.status == "succeeded", job.error
        assert model in house.host.loaded

    def test_the_manifest_says_what_was_beaten(self, house: House) -> None:
        artifact_id = promote(house, house.compile(rows(12)))
        job = house.compile(rows(12), valset=rows(12), evaluate=AGAINST_PROD)
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, job.id)
        assert artifact is not None
        assert json.loads(artifact.manifest)["evaluation"]["incumbent"]["artifact"] == artifact_id
        assert b"| incumbent |" in house.store.read(artifact.files["README.md"]["digest"])

    def test_the_first_job_of_a_program_has_nothing_to_beat_and_says_so(self, house: House) -> None:
        job = house.compile(rows(12), valset=rows(12), evaluate=AGAINST_PROD)
        assert job.status == "succeeded", job.error
        assert [warning["code"] for warning in job.warnings if warning["code"] == "no_incumbent"] == ["no_incumbent"]
        assert (job.evaluation or {})["delta"]["against"] == "baseline"

    @pytest.mark.parametrize(
        ("evaluate", "code"),
        [
            ({"incumbent": "suport@prod"}, "alias_not_found"),
            ({"incumbent": PROD, "roles": ["baseline"]}, "invalid_value"),
        ],
    )
    def test_what_cannot_be_compared_is_refused_at_submit(self, house: House, evaluate: dict[str, Any], code: str) -> None:
        promote(house, house.compile(rows(6)))
        with pytest.raises(Invalid) as raised:
            house.submit(rows(6), evaluate=evaluate)
        assert (raised.value.code, raised.value.param) == (code, "evaluate.incumbent")

    def test_an_incumbent_with_other_inputs_is_refused_at_submit(self, house: House) -> None:
        promote(house, house.compile(rows(6)))
        other = json.loads(json.dumps(SUPPORT).replace('"message"', '"text"').replace("input.message", "input.text"))
        renamed = [{"text": row["message"], "category": row["category"]} for row in rows(6)]
        with pytest.raises(Invalid) as raised:
            house.submit(renamed, other, evaluate={"incumbent": PROD})
        assert raised.value.code == "inputs_differ"
