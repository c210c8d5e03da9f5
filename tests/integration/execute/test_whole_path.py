"""From a submitted job to its artifact, in one process."""

import json
from collections import Counter

from distill.catalog import artifacts, row_facts
from distill.db import unit_of_work
from distill.jobs import events, repository
from distill.jobs.repository import StepView
from tests.integration.execute.house import CATEGORIES, House, PretendTrainer, rows
from tests.support.scripted_lm import Answer, Answerer, Ask


class TestCompile:
    def test_reaches_an_artifact_and_is_better_than_before(self, house: House) -> None:
        job = house.compile(rows(24), valset=rows(12), multitask=False, metadata={"git_sha": "9f1c2ab"})
        assert job.status == "succeeded", job.error
        assert job.evaluation is not None
        assert job.evaluation["teacher"]["score"] == 1.0
        assert job.evaluation["compiled"]["score"] == 1.0
        assert job.evaluation["delta"]["verdict"] == "better"
        majority, tfidf = (job.evaluation["references"][name] for name in ("majority_class", "tfidf"))
        assert (majority["field"], majority["rows"], majority["n"], majority["score"]) == ("category", 24, 12, 0.3333)
        assert (tfidf["score"], tfidf["delta"]["value"]) == (1.0, 0.0)
        with unit_of_work() as s:
            artifact = artifacts.of_job(s, job.id)
            assert artifact is not None
            manifest = json.loads(artifact.manifest)
            models = {name: row.model_id for row in repository.fine_tune_jobs(s, job.id) for name in row.predictors}
        assert manifest["evaluation"] == job.evaluation
        assert {name: part["model"] for name, part in manifest["predictors"].items()} == models
        assert len(set(models.values())) == 2
        assert set(house.host.loaded) == set(models.values())
        assert artifact.user_metadata == {"git_sha": "9f1c2ab"}
        state = json.loads(house.store.read(artifact.files["program.json"]["digest"]))
        assert state["classify"]["lm"]["model"] == f"tune/{models['classify']}"

    def test_each_predictor_trains_on_its_own_rows(self, house: House) -> None:
        house.compile(rows(24), multitask=False)
        assert isinstance(house.trainer, PretendTrainer)
        told = [{text["prompt"][0]["content"].split("objective is:")[1].split()[0] for text in job["texts"]} for job in house.trainer.jobs]
        assert told == [{"Route"}, {"Answer"}]

    def test_with_multitask_one_model_serves_all_predictors(self, house: House) -> None:
        job = house.compile(rows(9), multitask=True)
        assert job.status == "succeeded", job.error
        assert isinstance(house.trainer, PretendTrainer)
        (training,) = house.trainer.jobs
        objectives = [text["prompt"][0]["content"].split("objective is:")[1].split()[0] for text in training["texts"]]
        assert sorted(objectives) == ["Answer"] * 9 + ["Route"] * 9

    def test_each_step_is_told_once_and_counts_examples(self, house: House) -> None:
        job = house.compile(rows(12), valset=rows(3))
        with unit_of_work() as s:
            told = [event for event in events.after(s, job.id, 0) if event.type == "step"]
            totals = {view.name: (view.done, view.total) for view in repository.steps(s, job.id)}
        assert sorted(event.message for event in told) == sorted(f"{name} {what}" for name in totals for what in ("opened", "succeeded"))
        assert totals["prepare"] == (12, 12)
        counts = next(event.data["counts"] for event in told if event.message == "prepare succeeded" and event.data)
        assert (counts["kept"], counts["rows"]) == (24, 24)

    def test_without_a_holdout_there_is_no_verdict_and_a_warning(self, house: House) -> None:
        job = house.compile(rows(9))
        assert job.status == "succeeded"
        assert job.evaluation is None
        assert [warning["code"] for warning in job.warnings] == ["no_holdout"]

    def test_the_holdout_is_never_trained_on(self, house: House) -> None:
        job = house.compile(rows(40), holdout={"n": 10})
        assert job.evaluation is not None
        assert job.evaluation["n"] == 10
        with unit_of_work() as s:
            asked = {fact.example_index for fact in row_facts.every(s, job.id, "rollout", "teacher:0")}
            held = {fact.example_index for fact in row_facts.every(s, job.id, "rollout", "compiled")}
        assert (len(asked), len(held)) == (30, 10)
        assert asked.isdisjoint(held)

    def test_rows_with_equal_inputs_are_asked_once(self, house: House) -> None:
        house.compile([*rows(4), *rows(4)])
        assert len(house.teacher.calls) == 4 * 2
        assert {call.headers.get("Priority") for call in house.teacher.calls} == {"u=7"}, "nobody waits for one of them"


class TestSamples:
    def test_the_first_that_passes_is_kept_and_ends_the_example(self, house: House) -> None:
        house.teacher.answer = third_time_lucky()
        job = house.compile(rows(4), rollouts={"n": 4})
        assert job.status == "succeeded", job.error
        counts = step(job.id, "bootstrap").counts
        assert (counts["passed"], counts["ok"]) == (4, 12)
        assert step(job.id, "prepare").counts["kept"] == 4 * 2

    def test_samples_after_the_first_have_their_own_temperature(self, house: House) -> None:
        house.teacher.answer = third_time_lucky()
        house.compile(rows(1), rollouts={"n": 3, "temperature": 0.9})
        asked = [call.body.get("temperature") for call in house.teacher.calls]
        assert asked == [None, None, 0.9, 0.9, 0.9, 0.9]


def third_time_lucky() -> Answerer:
    """Wrong twice about every message, then right."""
    asked: Counter[str] = Counter()

    def answer(ask: Ask) -> Answer:
        if "category" not in ask.outputs:
            return {"answer": "Hello."}
        asked[ask.inputs["message"]] += 1
        right = ask.inputs["message"].split()[-1]
        wrong = next(name for name in CATEGORIES if name != right)
        return {"category": right if asked[ask.inputs["message"]] == 3 else wrong}

    return answer


def step(job_id: str, name: str) -> StepView:
    with unit_of_work() as s:
        return next(view for view in repository.steps(s, job_id) if view.name == name)
