from typing import Any

import pytest

from distill.pipeline.evaluate import Outcome, delta, evaluation, outcome


def outcomes(*scores: float | None, status: str = "ok") -> list[Outcome]:
    return [Outcome(i, score, status, 0.5, {"calls": 2}) for i, score in enumerate(scores)]


class TestOutcome:
    @pytest.mark.parametrize(
        ("trace", "score", "expected"),
        [
            ({"status": "ok"}, {"status": "ok", "value": 0.5}, 0.5),
            ({"status": "unparsable"}, None, 0.0),
            ({"status": "failed"}, None, 0.0),
            ({"status": "ok"}, {"status": "failed", "value": None}, 0.0),
            ({"status": "ok"}, {"status": "inconclusive", "value": None}, None),
        ],
    )
    def test_a_broken_answer_counts_and_an_undecided_one_does_not(self, trace: Any, score: Any, expected: float | None) -> None:
        assert outcome(3, trace, score).score == expected


class TestEvaluation:
    def test_reports_each_role(self) -> None:
        report = evaluation(
            {"baseline": [*outcomes(1.0, 0.0, 1.0), Outcome(3, 0.0, "unparsable")], "compiled": outcomes(1.0)}, "exact_match"
        )
        assert report is not None
        assert report["n"] == 4
        assert report["baseline"]["score"] == 0.5
        assert report["baseline"]["parse_failures"] == 1
        assert report["baseline"]["usage"] == {"calls": 6}
        assert report["baseline"]["latency_seconds"] == {"mean": 0.375, "median": 0.5, "p95": 0.5}

    def test_a_call_has_tokens_and_where_all_prices_are_known_a_price(self) -> None:
        one, two = ({"calls": 2, "prompt_tokens": tokens, "completion_tokens": 3, "usd": 0.01} for tokens in (100, 151))
        unpriced = {"calls": 1, "prompt_tokens": 9, "completion_tokens": 1}
        by_role = {
            "baseline": [Outcome(0, 1.0, "ok", 0.5, one), Outcome(1, 1.0, "ok", 0.5, two)],
            "compiled": [Outcome(0, 1.0, "ok", 0.5, one), Outcome(1, 1.0, "ok", 0.5, unpriced)],
            "teacher": [Outcome(0, 1.0, "ok")],
        }
        report = evaluation(by_role, "exact_match")
        assert report is not None
        assert report["baseline"]["usage"] == {"calls": 4, "prompt_tokens": 251, "completion_tokens": 6}
        assert report["baseline"]["per_call"] == {"prompt_tokens": 62.8, "completion_tokens": 1.5, "usd": 0.005}
        assert report["compiled"]["per_call"] == {"prompt_tokens": 36.3, "completion_tokens": 1.3, "usd": None}
        assert report["teacher"]["per_call"] is None

    def test_nothing_held_out_is_no_evaluation(self) -> None:
        assert evaluation({"baseline": [], "compiled": []}, "exact_match") is None


class TestDelta:
    def test_better_when_the_whole_interval_is_above_zero(self) -> None:
        found = delta({"baseline": outcomes(*[0.0] * 40), "compiled": outcomes(*[1.0] * 40)})
        assert found is not None
        assert (found["against"], found["verdict"], found["value"]) == ("baseline", "better", 1.0)

    def test_worse(self) -> None:
        found = delta({"baseline": outcomes(*[1.0] * 40), "compiled": outcomes(*[0.0] * 40)})
        assert found is not None
        assert found["verdict"] == "worse"

    def test_a_single_win_is_inconclusive(self) -> None:
        found = delta({"baseline": outcomes(*[0.0] * 40), "compiled": outcomes(*[1.0, *[0.0] * 39])})
        assert found is not None
        assert found["verdict"] == "inconclusive"

    def test_the_constrained_baseline_is_the_fairer_opponent(self) -> None:
        found = delta({"baseline": outcomes(*[0.0] * 9), "baseline_constrained": outcomes(*[1.0] * 9), "compiled": outcomes(*[1.0] * 9)})
        assert found is not None
        assert found["against"] == "baseline_constrained"

    def test_the_incumbent_comes_first(self) -> None:
        found = delta({"baseline": outcomes(0.0), "incumbent": outcomes(*[1.0] * 9), "compiled": outcomes(*[1.0] * 9)})
        assert found is not None
        assert found["against"] == "incumbent"

    def test_examples_that_one_side_could_not_score_are_no_pair(self) -> None:
        found = delta({"baseline": outcomes(*[None, None, *[0.0] * 6]), "compiled": outcomes(*[1.0] * 8)})
        assert found is not None
        assert found["pairs"] == 6

    def test_nobody_to_beat(self) -> None:
        assert delta({"compiled": outcomes(1.0)}) is None

    def test_counts_fixes_and_regressions(self) -> None:
        found = delta({"baseline": outcomes(0.0, 0.0, 1.0, 1.0, 1.0, None), "compiled": outcomes(1.0, 1.0, 0.0, 1.0, 1.0, 1.0)})
        assert found is not None
        assert (found["fixes"], found["regressions"], found["pairs"], found["p_value"]) == (2, 1, 5, 1.0)
