"""Jobs in which the labels teach: gold answers from the rows become training rows, and no teacher is asked."""

import csv
import io
from typing import Any

from distill.catalog import datasets, row_facts
from distill.db import unit_of_work
from distill.jobs import events, refiltering, repository
from distill.jobs.repository import StepView
from tests.integration.execute.house import CATEGORIES, SUPPORT, House, PretendTrainer, rows


def gold(n: int) -> list[dict[str, Any]]:
    return [{**row, "answer": f"Team {row['category']} will help, {i}."} for i, row in enumerate(rows(n))]


def trained(house: House) -> list[tuple[str, str]]:
    """(last user message, completion) of every row of every training, in order of the text."""
    assert isinstance(house.trainer, PretendTrainer)
    texts = [text for job in house.trainer.jobs for text in job["texts"]]
    return sorted((text["prompt"][-1]["content"], text["completion"][0]["content"]) for text in texts)


def step(job_id: str, name: str) -> StepView:
    with unit_of_work() as s:
        return next(view for view in repository.steps(s, job_id) if view.name == name)


class TestLabels:
    def test_the_rows_teach_and_the_student_is_evaluated_as_usual(self, house: House) -> None:
        job = house.compile(gold(12), valset=rows(9), teacher="labels", multitask=False)
        assert job.status == "succeeded", job.error
        assert house.teacher.calls == []
        assert job.evaluation is not None
        assert (job.evaluation["compiled"]["score"], "teacher" in job.evaluation) == (1.0, False)
        counts = step(job.id, "bootstrap").counts
        assert (counts["ok"], counts["passed"], counts["calls"], counts["teacher_calls"]) == (12, 12, 0, 0)

    def test_each_predictor_learns_its_own_gold_value(self, house: House) -> None:
        house.compile(gold(3), teacher="labels", multitask=False)
        found = trained(house)
        assert len(found) == 6
        for i, row in enumerate(gold(3)):
            mine = [completion for prompt, completion in found if row["message"] in prompt]
            assert sorted(mine) == sorted(
                f"[[ ## {name} ## ]]\n{row[name]}\n\n[[ ## completed ## ]]\n" for name in ("category", "answer")
            ), i
        reply = next(prompt for prompt, completion in found if "answer" in completion)
        assert f"[[ ## category ## ]]\n{CATEGORIES[0]}" in reply

    def test_the_metric_is_not_asked(self, house: House) -> None:
        """By this metric no row would pass: no answer is held against its own label."""
        job = house.compile(gold(4), teacher="labels", metric={"type": "f1", "field": "answer"}, filter={"min_score": 2.0})
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            assert {fact.score for fact in row_facts.every(s, job.id, "rollout", "teacher:0")} == {None}

    def test_a_row_without_a_label_is_left_out_and_counted(self, house: House) -> None:
        short = [{key: value for key, value in row.items() if key != "answer"} for row in gold(2)]
        job = house.compile([*gold(4)[2:], *short], teacher="labels", multitask=False)
        assert job.status == "succeeded", job.error
        warning = next(each for each in job.warnings if each["code"] == "examples_failed")
        assert warning["message"] == "2 of 4 examples failed: 2 failed"
        with unit_of_work() as s:
            facts = row_facts.every(s, job.id, "rollout", "teacher:0")
            assert {fact.message for fact in facts if fact.status == "failed"} == {"BadLabel: the row has no `answer`"}
            (told,) = (one.message for one in events.after(s, job.id, 0) if one.type == "bootstrap.rejected")
        assert told == "2 of 4 examples gave no answer that passes: 2 failed (first: row 3)"
        assert len(trained(house)) == 4

    def test_the_same_labels_make_their_traces_once(self, house: House) -> None:
        house.compile(gold(4), teacher="labels")
        job = house.compile(gold(6), teacher="labels")
        assert step(job.id, "bootstrap").counts["reused"] == 4

    def test_other_labels_are_other_traces(self, house: House) -> None:
        house.compile(gold(3), teacher="labels", multitask=False)
        first = len(trained(house))
        job = house.compile([{**row, "answer": "Another."} for row in gold(3)], teacher="labels", multitask=False)
        assert job.status == "succeeded", job.error
        assert [completion for _, completion in trained(house)].count("[[ ## answer ## ]]\nAnother.\n\n[[ ## completed ## ]]\n") == 3
        assert len(trained(house)) == first + 3, "the rows of `classify` are the same: its model is there already"

    def test_refilter_takes_the_same_labels_with_other_prompts(self, house: House) -> None:
        first = house.compile(gold(4), teacher="labels", multitask=False)
        with unit_of_work() as s:
            made = refiltering.refilter(s, house.project_id, None, first.id, {"prompt_adapter": "json", "filter": {"max_rows": 3}})
        before = len(trained(house))
        job = house.run(made.id)
        assert job.status == "succeeded", job.error
        assert (step(job.id, "bootstrap").counts["reused"], house.teacher.calls) == (4, [])
        completions = [completion for _, completion in trained(house) if completion.startswith("{")]
        assert len(completions) == len(trained(house)) - before == 6

    def test_a_csv_file_teaches_typed_values(self, house: House) -> None:
        fields = SUPPORT["predictors"][1]["signature"]["fields"]
        rating = {"name": "rating", "role": "output", "schema": {"type": "integer"}}
        reply = {**SUPPORT["predictors"][1], "signature": {"fields": [*fields, rating]}}
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["message", "category", "answer", "rating"])
        writer.writeheader()
        writer.writerows({**row, "answer": "07", "rating": "5"} for row in rows(2))
        text.seek(0)
        with unit_of_work() as s:
            table = datasets.create(s, house.store, house.project_id, csv.DictReader(text), source_format="csv").id
        job = house.compile(table, program={**SUPPORT, "predictors": [SUPPORT["predictors"][0], reply]}, teacher="labels")
        assert job.status == "succeeded", job.error
        completions = {completion for _, completion in trained(house) if "rating" in completion}
        assert completions == {"[[ ## answer ## ]]\n07\n\n[[ ## rating ## ]]\n5\n\n[[ ## completed ## ]]\n"}
