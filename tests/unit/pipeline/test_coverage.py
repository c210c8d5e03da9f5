from typing import Any

from distill.pipeline.coverage import Seen, Tallies, coverage, percentile, refuse
from distill.pipeline.keys import Key
from distill.pipeline.prepare import Row
from tests.support.shelves import row

APART = [Key("v1:s", name, "student", (name,)) for name in ("classify", "reply")]
TOGETHER = [Key("v1:s", "", "student", ("classify", "reply"))]


def report(rows: list[Row], keys: list[Key], seen: Seen) -> dict[str, Any]:
    tallies = [Tallies(key, key.predictors, {("classify", "duplicate"): 4}) for key in keys]
    for tally in tallies:
        for each in rows:
            if each.predictor in tally.key.predictors:
                tally.add(each, held=each.order[1] == 0)
    return coverage(seen, tallies)


class TestCoverage:
    def test_it_tells_each_predictors_fate(self) -> None:
        rows = [row("classify", i, label="ab"[i % 2], tokens=(100 + i, 7)) for i in range(3)]
        seen = Seen(5, 4, {"classify": 4, "reply": 4}, {("reply", "not_round_trip"): 2, ("reply", "too_long"): 1})
        found = report(rows, TOGETHER, seen)
        (key,) = found.pop("keys")
        assert found == {"traces": 5, "passed": 4}
        assert key["predictors"]["classify"] == {
            "traces": 4,
            "rows": 2,
            "validation_rows": 1,
            "rejected": {},
            "left_out": {"duplicate": 4},
            "tokens": {"sum": 324, "completion_sum": 21, "completion_max": 7, "p50": 108, "p95": 109, "max": 109},
            "labels": {"category": {"a": 2, "b": 1}},
        }
        assert key["predictors"]["reply"]["rejected"] == {"not_round_trip": 2, "too_long": 1}
        assert key["predictors"]["reply"]["tokens"] == {"sum": 0, "completion_sum": 0, "completion_max": 0, "p50": 0, "p95": 0, "max": 0}
        assert (key["rows"], key["validation_rows"], key["tokens"]["sum"]) == (2, 1, 324)

    def test_percentiles_are_lengths_of_rows(self) -> None:
        lengths = dict.fromkeys(range(1, 101), 1)
        assert (percentile(lengths, 0.5), percentile(lengths, 0.95), percentile({7: 3}, 0.95)) == (50, 95, 7)


class TestRefuse:
    def test_nothing_passed(self) -> None:
        reason = refuse(report([], APART, Seen(640, 0)), 1.0, [0.8] * 512 + [0.5] * 128)
        assert reason is not None
        assert reason.code == "no_rows_kept"
        assert reason.param == "filter.min_score"
        assert reason.message.startswith("640 traces, 0 rows with score >= 1.0 (highest 0.8; 512 at 0.8).")
        assert '{"filter": {"min_score": 0.8}}' in reason.message
        assert reason.data["histogram"] == [{"score": 0.8, "count": 512}, {"score": 0.5, "count": 128}]
        assert reason.data["coverage"]["traces"] == 640

    def test_the_advised_bar_keeps_the_highest_scores(self) -> None:
        reason = refuse(report([], APART, Seen(8, 0)), 1.0, [2 / 3] * 8)
        assert reason is not None
        assert reason.data["refilter"] == {"filter": {"min_score": 0.6666}}

    def test_a_lower_bar_is_not_advised_when_all_scores_are_zero(self) -> None:
        reason = refuse(report([], APART, Seen(3, 0)), 1.0, [0.0] * 3)
        assert reason is not None
        assert 'min_score":' not in reason.message
        assert "Check the metric" in reason.message

    def test_a_predictor_without_rows_is_named_with_its_rejections(self) -> None:
        reason = refuse(report([row("classify", 1)], APART, Seen(1, 1, {}, {("reply", "not_round_trip"): 1})), 1.0, [1.0])
        assert reason is not None
        assert reason.code == "no_rows_for_predictor"
        assert "No training row for predictor `reply`" in reason.message
        assert "1 row rejected (1 not_round_trip)" in reason.message
        assert '"multitask": true' in reason.message
        fault = reason.fault()
        assert fault.data is not None
        assert fault.data["coverage"]["keys"][1]["predictors"]["reply"]["rejected"] == {"not_round_trip": 1}

    def test_rows_that_are_too_long_are_to_be_refiltered(self) -> None:
        reason = refuse(report([], TOGETHER, Seen(3, 3, {}, {("classify", "too_long"): 3})), 1.0, [1.0] * 3)
        assert reason is not None
        assert "multitask" not in reason.message, "they share their rows already"
        assert 'refilter of this job with {"train_options": {"max_seq_length": "auto"}}' in reason.message

    def test_a_shared_key_with_rows_is_enough(self) -> None:
        assert refuse(report([row("classify", 0)], TOGETHER, Seen(1, 1)), 1.0, [1.0]) is None
