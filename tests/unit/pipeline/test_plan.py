from typing import Any

from distill.pipeline.holdout import Split
from distill.pipeline.plan import digests_of, divide, inputs_of, labels_of, roles_to_evaluate, warnings
from distill.spec import CompileSpec, read_spec
from stillhouse_programs.spec import parse_spec

FIELDS = [{"name": "b", "role": "input"}, {"name": "a", "role": "input"}, {"name": "y", "role": "output"}]
PROGRAM = parse_spec({"predictors": [{"name": "self", "lm": "s", "signature": {"instructions": "Do.", "fields": FIELDS}}]})


def spec(**more: Any) -> CompileSpec:
    return read_spec({"program_id": "prog-1", "trainset": "ds-1", "teacher": ({},), **more})


def groups(n: int) -> list[str]:
    return [f"v1:{i}" for i in range(n)]


class TestRows:
    def test_inputs_stand_in_the_programs_order_and_the_rest_are_labels(self) -> None:
        row = {"y": 1, "a": 2, "note": 3, "b": 4}
        assert list(inputs_of(PROGRAM, row).items()) == [("b", 4), ("a", 2)]
        assert labels_of(PROGRAM, row) == {"y": 1, "note": 3}

    def test_labels_and_the_order_of_keys_make_no_other_group(self) -> None:
        assert digests_of(spec(), PROGRAM, {"a": 1, "b": 2, "y": 3}).group == digests_of(spec(), PROGRAM, {"y": 4, "b": 2, "a": 1}).group
        assert digests_of(spec(), PROGRAM, {"a": 1, "b": 2}).group != digests_of(spec(), PROGRAM, {"a": 2, "b": 1}).group

    def test_rows_of_one_conversation_are_one_group_whatever_their_inputs(self) -> None:
        by_talk = spec(filter={"group_by": "talk"})
        assert (
            digests_of(by_talk, PROGRAM, {"a": 1, "b": 2, "talk": 7}).group
            == digests_of(by_talk, PROGRAM, {"a": 3, "b": 4, "talk": 7}).group
        )
        assert (
            digests_of(by_talk, PROGRAM, {"a": 1, "b": 2, "talk": 7}).group
            != digests_of(by_talk, PROGRAM, {"a": 1, "b": 2, "talk": "7"}).group
        )

    def test_a_row_without_a_conversation_is_grouped_by_its_inputs(self) -> None:
        by_talk = spec(filter={"group_by": "talk"})
        assert digests_of(by_talk, PROGRAM, {"a": 1, "b": 2, "talk": None}).group == digests_of(spec(), PROGRAM, {"a": 1, "b": 2}).group


class TestDivide:
    def test_with_a_valset_the_whole_trainset_is_trained_on(self) -> None:
        assert divide(spec(), groups(400), valset_rows=10) == (Split(tuple(range(400)), ()), "valset")

    def test_many_rows_hold_some_out_by_themselves(self) -> None:
        sides, source = divide(spec(), groups(400), None)
        assert source == "trainset"
        assert 50 <= len(sides.holdout) <= 110

    def test_few_rows_hold_out_what_was_asked_for(self) -> None:
        assert divide(spec(), groups(40), None)[1] is None
        assert len(divide(spec(holdout={"n": 4}), groups(40), None)[0].holdout) == 4


class TestWarnings:
    def test_no_holdout_means_no_verdict(self) -> None:
        (warning,) = warnings(spec(), Split((0, 1), ()), None, 0)
        assert warning["code"] == "no_holdout"
        assert "(2 rows)" in warning["message"]

    def test_few_held_out_rows_are_told_unless_a_number_was_asked_for(self) -> None:
        sides = Split(tuple(range(20, 120)), tuple(range(20)))
        (warning,) = warnings(spec(), sides, "trainset", 0)
        assert warning["code"] == "few_held_out"
        assert warning["message"].startswith("20 of 120 rows are held out")
        assert warnings(spec(holdout={"n": 20}), sides, "trainset", 0) == []
        assert warnings(spec(), Split(tuple(range(50, 250)), tuple(range(50))), "trainset", 0) == []

    def test_a_valset_that_was_trained_on_is_told(self) -> None:
        (warning,) = warnings(spec(), Split((0,), ()), "valset", 3)
        assert warning["code"] == "valset_overlap"
        assert warning["message"].startswith("3 rows")


class TestRolesToEvaluate:
    def test_those_that_are_asked_for(self) -> None:
        assert roles_to_evaluate(spec(), "valset") == ["baseline", "teacher", "compiled"]
        assert roles_to_evaluate(spec(evaluate={"roles": ["compiled"]}), "valset") == ["compiled"]

    def test_none_without_a_holdout(self) -> None:
        assert roles_to_evaluate(spec(), None) == []
