"""What the drop-in tells when a job has stood still."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import stillhouse
from stillhouse.cli.job_view import show_job
from stillhouse.dropin.failed import failed_examples
from stillhouse.dropin.report import report
from stillhouse.types import CompileJob
from tests.unit.client.conftest import job, reply, scripted

CHILDREN = [
    {"id": "ftjob-1", "status": "succeeded", "lm": "student", "predictor": "classify", "rows": 512, "fine_tuned_model": "sh-classify"},
    {"id": "ftjob-2", "status": "running", "lm": "student", "predictor": "reply", "rows": 498},
]
EVALUATION: dict[str, Any] = {
    "baseline": {"score": 0.41, "low": 0.354, "high": 0.467, "n": 298, "undecided": 2, "parse_failures": 22},
    "teacher": {"score": None},
    "compiled": {"score": 0.843, "low": 0.797, "high": 0.882},
    "delta": {"against": "baseline", "value": 0.433, "low": 0.38, "high": 0.486, "verdict": "better"},
}

REFERENCES = {
    "majority_class": {"score": 0.4, "low": 0.34, "high": 0.46, "n": 300, "delta": {"value": 0.443, "verdict": "better"}},
    "tfidf": {"score": 0.82, "low": 0.77, "high": 0.86, "n": 300, "delta": {"value": 0.023, "verdict": "inconclusive"}},
}


def coverage_of(*keys: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    found = [{"lm": "student", "predictor": predictor, "predictors": parts} for predictor, parts in keys]
    return {"data": [], "has_more": False, "coverage": {"traces": 600, "passed": 520, "keys": found}}


def part(rows: int, **rejected: int) -> dict[str, Any]:
    return {"rows": rows, "rejected": rejected}


def curves(*points: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"data": [{"fine_tuning_job": id, "lm": "student", "predictor": "", "points": each} for id, each in points], "has_more": False}


def pair(row: int, label: str, category: str, score: float | None) -> dict[str, Any]:
    compiled = {"role": "compiled", "score": score, "outputs": {"category": category}}
    return {"row": row, "change": "same", "data": {"message": "Hello", "category": label}, "compiled": compiled, "against": {}}


def told(body: dict[str, Any], coverage: dict[str, Any], curve: dict[str, Any], *pairs: dict[str, Any]) -> str:
    client, _ = scripted(reply(coverage), reply(curve), reply({"data": pairs, "has_more": False}))
    return report(client, CompileJob.model_validate(body))


class TestReport:
    def test_a_low_held_out_answer_is_beside_its_label(self) -> None:
        body = job("succeeded", evaluation=EVALUATION)
        pairs = [pair(1, "spam", "spam", 1.0), pair(2, "spam", "unknown", None), pair(3, "spam", "junk", 0.0)]
        shown = told(body, coverage_of(), curves(), *pairs)
        assert shown.endswith("\nHeld-out row 3: category is 'junk', its label 'spam' (score 0).")

    def test_no_answer_is_shown_where_all_are_right(self) -> None:
        body = job("succeeded", evaluation=EVALUATION)
        assert told(body, coverage_of(), curves(), pair(1, "spam", "spam", 1.0)) == told(body, coverage_of(), curves())

    def test_predictors_and_scores_are_tables(self) -> None:
        coverage = coverage_of(("classify", {"classify": part(512, too_long=10, unparsable=2)}), ("reply", {"reply": part(498)}))
        points = [{"step": 1, "loss": 1.931}, {"step": 2, "validation_loss": 0.5}, {"step": 3, "loss": 0.2081}]
        body = job("succeeded", fine_tuning_jobs=CHILDREN, evaluation=EVALUATION, cost={"total_usd": 0.119})
        assert told(body, coverage, curves(("ftjob-1", points))).split("\n") == [
            "cjob-1: succeeded",
            "",
            "predictor  rows  rejected  loss           model",
            "classify   512   12        1.931 → 0.208  sh-classify",
            "reply      498   0         –              running",
            "",
            "role      score  95 % interval   n    undecided  parse failures",
            "baseline  0.410  0.354 to 0.467  298  2          22",
            "compiled  0.843  0.797 to 0.882  –    –          –",
            "",
            "compiled against baseline: +0.433 (+0.380 to +0.486), better",
            "cost $0.12",
        ]

    def test_the_options_that_models_were_trained_with(self) -> None:
        options = {"n_epochs": 3, "batch_size": 8, "learning_rate": 0.001, "lora_r": 16, "scheduler": "linear"}
        body = job("succeeded", fine_tuning_jobs=[{**child, "train_options": options} for child in CHILDREN])
        lines = told(body, {"data": []}, curves()).split("\n")
        assert lines[-1] == "trained with n_epochs 3, batch_size 8, learning_rate 0.001, lora_r 16"

    def test_tokens_and_price_of_a_call(self) -> None:
        before = {"prompt_tokens": 258.1, "completion_tokens": 12.0, "usd": 0.00025}
        after = {"prompt_tokens": 57.3, "completion_tokens": 1.0, "usd": None}
        roles = {"baseline": {**EVALUATION["baseline"], "per_call": before}, "compiled": {**EVALUATION["compiled"], "per_call": after}}
        lines = told(job("succeeded", evaluation={**EVALUATION, **roles}), {"data": []}, curves()).split("\n")
        assert lines[-1] == "a call: baseline 258.1 tokens in, 12 out, $0.2500 for 1,000; compiled 57.3 tokens in, 1 out, price unknown"

    def test_answers_that_ask_no_model_stand_below_and_a_verdict_names_those_not_beaten(self) -> None:
        body = job("succeeded", evaluation={**EVALUATION, "references": REFERENCES})
        lines = told(body, {"data": []}, curves()).split("\n")
        assert lines[5:] == [
            "majority class  0.400  0.340 to 0.460  300  –          –",
            "TF-IDF          0.820  0.770 to 0.860  300  –          –",
            "",
            "compiled against baseline: +0.433 (+0.380 to +0.486), better, but not better than TF-IDF",
        ]

    def test_the_command_line_shows_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        show_job(CompileJob.model_validate(job("succeeded", evaluation={**EVALUATION, "references": REFERENCES})), as_json=False)
        shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "baseline 0.410 0.354 to 0.467 298 2 22" in shown
        assert "TF-IDF 0.820 0.770 to 0.860 300 – –" in shown
        assert "compared with baseline: +0.433 (+0.380 to +0.486), better, but not better than TF-IDF" in shown

    def test_a_shared_model_has_a_row_for_each_predictor(self) -> None:
        shared = [{**CHILDREN[0], "predictor": ""}]
        lines = told(job("succeeded", fine_tuning_jobs=shared), coverage_of(("", {"a": part(3), "b": part(4, x=1)})), curves())
        assert [line.split()[:3] for line in lines.split("\n")[3:]] == [["a", "3", "0"], ["b", "4", "1"]]

    def test_a_job_that_failed_says_why_and_an_unknown_price_is_not_0(self) -> None:
        error = {"code": "no_rows_kept", "message": "640 traces, 0 rows"}
        cost = {"total_usd": None, "unknown": ["price of openai/big"]}
        lines = told(job("failed", error=error, cost=cost), {"data": [], "coverage": None}, curves())
        assert lines == "cjob-1: failed\n\ncost unknown (price of openai/big)\nno_rows_kept: 640 traces, 0 rows"

    def test_too_few_pairs_are_no_difference(self) -> None:
        delta = {"against": "baseline", "value": None, "verdict": "inconclusive"}
        lines = told(job("succeeded", evaluation={"delta": delta}), {"data": []}, curves())
        assert lines.endswith("compiled against baseline: inconclusive")


class TestFailures:
    REJECTED = (
        {"row": 3, "reason": "score", "message": "0.0 < 1.0", "role": "teacher:0"},
        {"row": 1, "reason": "timeout", "role": "teacher:0"},
        {"row": 2, "reason": "too_long", "predictor": "reply", "role": "teacher:0"},
        {"row": 1, "reason": "unparsable", "message": "no team", "role": "teacher:1"},
    )

    def found(self, teachers: int) -> list[Any]:
        trainset = [dspy.Example(message=f"m{number}", team="billing").with_inputs("message") for number in range(3)]
        pages = [{"data": self.REJECTED[:2], "has_more": True, "last_id": "2"}, {"data": self.REJECTED[2:], "has_more": False}]
        client, _ = scripted(*map(reply, pages))
        return failed_examples(client, "cjob-1", trainset, teachers)

    def test_they_are_the_callers_examples_with_the_reason(self) -> None:
        first, third = self.found(1)
        assert (first.message, first.failure) == ("m0", "timeout; unparsable: no team")
        assert (dict(third.inputs().items()), third.team, third.failure) == ({"message": "m2"}, "billing", "score: 0.0 < 1.0")

    def test_an_example_that_another_teacher_knew_is_none(self) -> None:
        assert [example.message for example in self.found(2)] == ["m0"]

    def test_before_anything_was_compiled_there_are_none(self) -> None:
        assert stillhouse.BootstrapFinetune().failed_examples() == []
