"""Built-in metrics, and the reading of what any metric returns."""

import math
from typing import Any

import dspy
import pytest

from stillhouse_programs.metrics import INCONCLUSIVE, NoLabel, make_metric, read_score, token_f1
from stillhouse_programs.spec import SpecError
from tests.unit.programs.samples import Color, Item


class TestBuiltIn:
    def test_exact_match_looks_at_every_output_with_a_label(self) -> None:
        metric = make_metric("exact_match")
        prediction = dspy.Prediction(category="billing", answer="x")
        assert metric(dspy.Example(category="billing", message="m"), prediction, None) is True
        assert metric({"category": "billing", "answer": "y"}, prediction) is False

    def test_exact_match_on_named_fields(self) -> None:
        metric = make_metric({"type": "exact_match", "fields": ["category"]})
        assert metric({"category": "billing", "answer": "y"}, {"category": "billing", "answer": "x"}) is True

    def test_typed_outputs_meet_labels_in_json(self) -> None:
        metric = make_metric("exact_match")
        outputs = {"color": Color.RED, "item": Item(name="pen"), "tags": {"b", "a"}}
        assert metric({"color": "red", "item": {"name": "pen", "qty": 1}, "tags": {"a", "b"}}, outputs) is True

    def test_f1(self) -> None:
        metric = make_metric({"type": "f1", "field": "answer"})
        assert metric({"answer": "The cat sat."}, {"answer": "a cat sat down"}) == pytest.approx(0.8)
        assert token_f1("", "") == 1.0
        assert token_f1("x", "") == 0.0

    def test_field_equals_with_its_options(self) -> None:
        loose = make_metric({"type": "field_equals", "field": "a", "ignore_case": True, "strip": True})
        strict = make_metric({"type": "field_equals", "field": "a"})
        assert loose({"a": "Yes"}, {"a": " yes "}) is True
        assert strict({"a": "Yes"}, {"a": "yes"}) is False

    @pytest.mark.parametrize("metric", ["exact_match", {"type": "f1", "field": "a"}, {"type": "exact_match", "fields": ["a"]}])
    def test_a_row_without_a_label_is_told(self, metric: Any) -> None:
        with pytest.raises(NoLabel):
            make_metric(metric)({"q": "x"}, {"a": "y"})

    def test_unknown(self) -> None:
        with pytest.raises(SpecError):
            make_metric("llm")


class TestReadScore:
    @pytest.mark.parametrize(
        ("value", "min_score", "number", "passed"),
        [
            (True, 1.0, 1.0, True),
            (False, 0.0, 0.0, False),
            (0.8, 0.8, 0.8, True),
            (0.79, 0.8, 0.79, False),
            (0.01, 1.0, 0.01, False),
            (-1.0, 1.0, -1.0, False),
            (3, 2.5, 3.0, True),
            (dspy.Prediction(score=0.0), 1.0, 0.0, False),
            (dspy.Prediction(score=True), 1.0, 1.0, True),
            ({"score": 1}, 1.0, 1.0, True),
        ],
    )
    def test_numbers_and_truth(self, value: Any, min_score: float, number: float, passed: bool) -> None:
        score = read_score(value, min_score)
        assert (score.value, score.passed, score.status, score.error) == (number, passed, "ok", None)

    @pytest.mark.parametrize("value", [None, INCONCLUSIVE, dspy.Prediction(score=None, feedback="no idea")])
    def test_inconclusive(self, value: Any) -> None:
        score = read_score(value)
        assert (score.value, score.passed, score.status) == (None, False, "inconclusive")

    @pytest.mark.parametrize("value", [math.nan, math.inf, "0.9", b"1", [], dspy.Prediction(answer="x"), {"points": 1}, object()])
    def test_all_else_fails_the_row_with_a_reason(self, value: Any) -> None:
        score = read_score(value)
        assert (score.value, score.passed, score.status) == (None, False, "failed")
        assert score.error is not None
        assert "expected a number, True or False" in score.error

    def test_feedback_is_kept(self) -> None:
        assert read_score(dspy.Prediction(score=0.5, feedback="too long")).feedback == "too long"

    def test_the_stored_form(self) -> None:
        stored = {"value": 1.0, "passed": True, "status": "ok", "feedback": None, "error": None}
        assert read_score(True).to_json() == stored
