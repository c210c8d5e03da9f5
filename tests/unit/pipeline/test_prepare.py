import random
from typing import Any

import pytest

from distill.pipeline.keys import Predictor, fine_tune_keys
from distill.pipeline.prepare import Assembly, Filter, Rejected, Row, assemble, passes, refuse, validation_groups

PREDICTORS = [Predictor("classify", "student"), Predictor("reply", "student")]
APART = fine_tune_keys(PREDICTORS, {"student": "v1:s"}, multitask=False)
TOGETHER = fine_tune_keys(PREDICTORS, {"student": "v1:s"}, multitask=True)


def row(predictor: str, example: int, *, n: int = 0, digest: str | None = None, score: float = 1.0, group: str | None = None) -> Row:
    trace = f"t{example}.{n}"
    return Row(
        predictor,
        digest or f"{predictor}{trace}",
        trace,
        group or f"g{example}",
        score,
        (0, example, n, 0 if predictor == "classify" else 1),
    )


def both(n: int) -> list[Row]:
    return [row(name, i) for i in range(n) for name in ("classify", "reply")]


def digests(made: Assembly) -> list[list[str]]:
    return [[r.digest for r in (*file.train, *file.validation)] for file in made.files]


class TestAssemble:
    def test_rows_land_on_their_own_predictor(self) -> None:
        made = assemble(both(8), [], APART, Filter(), seed=0)
        assert [{r.predictor for r in file.train} for file in made.files] == [{"classify"}, {"reply"}]

    def test_a_shared_key_takes_both(self) -> None:
        (file,) = assemble(both(8), [], TOGETHER, Filter(), seed=0).files
        assert len(file) == 16

    def test_a_helper_predictor_of_no_key_is_left_out(self) -> None:
        made = assemble([*both(2), row("feedback", 0)], [], APART, Filter(), seed=0)
        assert sum(len(file) for file in made.files) == 4

    def test_any_order_of_arrival_gives_the_same_files(self) -> None:
        rows = both(120)
        mixed = random.Random(5).sample(rows, len(rows))
        assert digests(assemble(rows, [], APART, Filter(), seed=3)) == digests(assemble(mixed, [], APART, Filter(), seed=3))

    def test_another_seed_gives_another_order(self) -> None:
        assert digests(assemble(both(50), [], APART, Filter(), seed=1)) != digests(assemble(both(50), [], APART, Filter(), seed=2))

    def test_equal_rows_are_kept_once(self) -> None:
        rows = [row("classify", i, digest="same") for i in range(5)]
        assert len(assemble(rows, [], APART, Filter(), seed=0).files[0]) == 1
        assert len(assemble(rows, [], APART, Filter(dedup=False), seed=0).files[0]) == 5

    def test_top_k_keeps_the_best_traces_of_equal_inputs_whole(self) -> None:
        rows = [row(p, 0, n=n, score=s) for n, s in enumerate([0.8, 1.0, 0.9]) for p in ("classify", "reply")]
        (file,) = assemble(rows, [], TOGETHER, Filter(top_k=1), seed=0).files
        assert {r.trace_digest for r in file.train} == {"t0.1"}
        assert len(file) == 2

    def test_max_rows_caps_each_key(self) -> None:
        assert [len(file) for file in assemble(both(90), [], APART, Filter(max_rows=20), seed=0).files] == [20, 20]

    def test_equal_inputs_never_stand_on_both_sides(self) -> None:
        rows = [row("classify", i, n=n, group=f"g{i}") for i in range(60) for n in range(3)]
        file = assemble(rows, [], APART, Filter(), seed=0).files[0]
        assert file.validation
        assert {r.group for r in file.train}.isdisjoint(r.group for r in file.validation)

    def test_early_stopping_gets_rows_to_watch_even_when_there_are_few(self) -> None:
        made = assemble(both(12), [], APART, Filter(), seed=0, watched={"v1:s"})
        assert [(len(file.train), len(file.validation)) for file in made.files] == [(11, 1), (11, 1)]

    def test_coverage_tells_each_predictors_fate(self) -> None:
        made = assemble(both(3), [Rejected("reply", "not_round_trip")] * 2, TOGETHER, Filter(), seed=0)
        assert made.coverage["reply"] == {"rendered": 3, "rows": 3, "validation_rows": 0, "rejected": {"not_round_trip": 2}}


class TestRefuse:
    def test_nothing_passed(self) -> None:
        made = assemble([], [], APART, Filter(), seed=0)
        reason = refuse(made, traces=640, passed=0, min_score=1.0, scores=[0.8] * 512 + [0.5] * 128)
        assert reason is not None
        assert reason.code == "no_rows_kept"
        assert reason.param == "filter.min_score"
        assert reason.message.startswith("640 traces, 0 rows with score >= 1.0 (highest 0.8; 512 at 0.8).")
        assert '{"filter": {"min_score": 0.8}}' in reason.message
        assert reason.data["histogram"] == [{"score": 0.8, "count": 512}, {"score": 0.5, "count": 128}]

    def test_a_lower_bar_is_not_advised_when_all_scores_are_zero(self) -> None:
        reason = refuse(assemble([], [], APART, Filter(), seed=0), traces=3, passed=0, min_score=1.0, scores=[0.0] * 3)
        assert reason is not None
        assert 'min_score":' not in reason.message
        assert "Check the metric" in reason.message

    def test_a_predictor_without_rows_is_named_with_its_rejections(self) -> None:
        made = assemble([row("classify", 0)], [Rejected("reply", "not_round_trip")], APART, Filter(), seed=0)
        reason = refuse(made, traces=1, passed=1, min_score=1.0, scores=[1.0])
        assert reason is not None
        assert reason.code == "no_rows_for_predictor"
        assert "No training row for predictor `reply`" in reason.message
        assert "1 rows rejected (1 not_round_trip)" in reason.message

    def test_a_shared_key_with_rows_is_enough(self) -> None:
        made = assemble([row("classify", 0)], [], TOGETHER, Filter(), seed=0)
        assert refuse(made, traces=1, passed=1, min_score=1.0, scores=[1.0]) is None


class TestPasses:
    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            ({"status": "ok", "value": 1.0}, True),
            ({"status": "ok", "value": 0.79}, False),
            ({"status": "inconclusive", "value": None}, False),
            ({"status": "failed", "value": None}, False),
            (None, False),
        ],
    )
    def test_the_bar_decides(self, score: Any, expected: bool) -> None:
        assert passes("ok", score, 0.8, scored=True) is expected

    def test_without_a_metric_every_answer_passes(self) -> None:
        assert passes("ok", None, 1.0, scored=False)
        assert not passes("unparsable", None, 1.0, scored=False)


class TestValidationGroups:
    def test_few_rows_are_all_trained_on(self) -> None:
        assert validation_groups([f"g{i}" for i in range(49)]) == set()

    def test_a_tenth_watches_and_never_more_than_256(self) -> None:
        assert len(validation_groups([f"g{i}" for i in range(200)])) == 20
        assert len(validation_groups([f"g{i}" for i in range(9000)])) == 256

    def test_one_group_of_everything_is_trained_on(self) -> None:
        assert validation_groups(["g"] * 100) == set()
