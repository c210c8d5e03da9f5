"""A user posts a program over HTTP and gets back one that answers with its own fine-tuned models."""

import json
from pathlib import Path
from typing import Any

import pytest

import stillhouse
from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import ANSWER, CATEGORY, LMS, PROGRAM, rows
from tests.support.scripted_lm import ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def job(client: Stillhouse, teacher: ScriptedLM) -> Any:
    made = client.compile_jobs.create(
        program=PROGRAM,
        program_name="support",
        trainset=rows(24),
        valset=rows(8, start=100),
        metric={"type": "exact_match", "fields": ["category"]},
        lms=LMS,
        multitask=False,
        num_threads=4,
    )
    return client.compile_jobs.wait(made.id, timeout=400)


class TestCompile:
    def test_succeeds_with_one_model_for_each_lm_and_predictor(self, job: Any) -> None:
        assert job.status == "succeeded", job.error
        children = {child.predictor: child for child in job.fine_tuning_jobs}
        assert set(children) == {"classify", "reply"}
        assert {child.rows for child in children.values()} == {24}
        assert len({child.fine_tuned_model for child in children.values()}) == 2

    def test_the_report_says_that_it_is_better(self, job: Any) -> None:
        evaluation = job.evaluation
        assert evaluation["teacher"]["score"] == 1.0
        assert evaluation["baseline"]["score"] == 0.0
        assert evaluation["compiled"]["score"] == 1.0
        assert evaluation["delta"]["verdict"] == "better"

    def test_the_loaded_program_asks_each_predictors_own_model(self, job: Any, client: Stillhouse, server: Stack, tmp_path: Path) -> None:
        program = stillhouse.load(job.artifact.id, client=client, cache_dir=tmp_path)
        models = {child.predictor: child.fine_tuned_model for child in job.fine_tuning_jobs}
        assert {name: predictor.lm.model for name, predictor in program.named_predictors()} == {
            name: f"tune/{model}" for name, model in models.items()
        }
        # Each adapter learned to say one thing: the other's answer would not even parse.
        answer = program(message="Message 101")
        assert (answer.category, answer.answer) == (CATEGORY, ANSWER)

    def test_the_gateway_never_answers_with_the_base_model_instead(self, job: Any, client: Stillhouse) -> None:
        models = [child.fine_tuned_model for child in job.fine_tuning_jobs]
        listed = {model.id for model in client.models.list()}
        assert set(models) <= listed

    def test_the_artifact_can_be_called_over_http(self, job: Any, client: Stillhouse) -> None:
        reply = client.artifacts.call(job.artifact.id, {"message": "Message 102"})
        assert json.loads(reply.model_dump_json())["outputs"]["answer"] == ANSWER
