from collections.abc import Sequence
from typing import Any

import pytest

from distill.errors import Invalid
from distill.pipeline.bootstrap import Missing, Stored, example_is_done, judge, missing, not_run, outcome, verdict
from distill.pipeline.refusals import Reason, failed_examples
from distill.spec import SmokeTest, read_spec

DEFAULT = SmokeTest()
OK: dict[str, Any] = {"status": "ok"}
PASS: dict[str, Any] = {"status": "ok", "passed": True, "value": 1.0}
MISS: dict[str, Any] = {"status": "ok", "passed": False, "value": 0.0}


class TestMissing:
    @pytest.mark.parametrize(
        ("trace", "score", "expected"),
        [
            (None, None, Missing.TRACE),
            (OK, None, Missing.SCORE),
            (OK, PASS, Missing.NOTHING),
            ({"status": "unparsable"}, MISS, Missing.NOTHING),
            ({"status": "failed"}, MISS, Missing.NOTHING),
        ],
    )
    def test_makes_only_what_is_not_there(self, trace: Any, score: Any, expected: Missing) -> None:
        assert missing(Stored(0, trace, score), scored=True) is expected

    def test_without_a_metric_a_trace_is_enough(self) -> None:
        assert missing(Stored(0, OK, None), scored=False) is Missing.NOTHING


class TestExampleIsDone:
    def test_a_pass_before_the_gap_ends_it(self) -> None:
        rollouts = [Stored(0, OK, MISS), Stored(1, OK, PASS), Stored(2, None, None)]
        assert example_is_done(rollouts, scored=True, stop_on_pass=True)
        assert not example_is_done(rollouts, scored=True, stop_on_pass=False)

    def test_a_gap_before_the_pass_has_to_be_filled(self) -> None:
        assert not example_is_done([Stored(0, None, None), Stored(1, OK, PASS)], scored=True, stop_on_pass=True)


def ended(status: str, error: str = "", place: str = "p.py:3 in forward", score: Any = None) -> Stored:
    kind, _, message = error.partition(": ")
    fault = {"type": kind, "message": message, "traceback": f"x.py:1 in a\n{place}"} if error else None
    return Stored(0, {"status": status, "error": fault}, score)


def stop(
    stored: Sequence[Stored | None], smoke_test: SmokeTest | None = DEFAULT, *, rest: int = 90, teacher: str = "the teacher"
) -> Reason | None:
    return judge([None if each is None else outcome([each]) for each in stored], smoke_test, teacher, rest)


def message(*args: Any, **kwargs: Any) -> str:
    reason = stop(*args, **kwargs)
    assert reason is not None
    return reason.message


UNREADABLE = ended("unparsable", "AdapterParseError: found no a in the answer")
BELOW = ended("ok", score=MISS)
GOOD = ended("ok", score=PASS)


class TestOneErrorOnly:
    def test_ten_first_examples_with_the_same_error_end_the_job(self) -> None:
        reason = stop([UNREADABLE] * 10, None)
        assert reason is not None
        assert reason.code == "all_rollouts_failed"
        assert reason.message == (
            "The first 10 examples of the teacher all failed with the same error: AdapterParseError: found no a in the answer. "
            "The job stopped before the other 90 examples; nothing was trained. Name a teacher that answers in the format of the prompt, "
            "or constrain its answers: `constrain: true` of its LM."
        )

    def test_the_same_fault_at_the_same_place_is_one_error_whatever_it_says_of_the_example(self) -> None:
        assert "KeyError: 'row 0'" in message([ended("failed", f"KeyError: 'row {n}'") for n in range(10)], None)
        assert stop([ended("failed", "KeyError: 'x'", place=f"p.py:{n} in forward") for n in range(10)], None) is None

    def test_a_metric_that_always_fails_is_one_error_too(self) -> None:
        broken = ended("ok", score={"status": "failed", "value": None, "passed": False, "error": "NoLabel: no label `a`"})
        assert "the metric: NoLabel" in message([broken] * 10, None)

    @pytest.mark.parametrize("other", [BELOW, GOOD, None, ended("failed", "ValueError: no")])
    def test_one_example_that_ends_otherwise_is_enough_to_go_on(self, other: Stored | None) -> None:
        assert stop([UNREADABLE] * 9 + [other], None) is None

    def test_what_could_not_be_run_counts_by_its_code(self) -> None:
        reason = judge([not_run("time_limit", f"not done within {n} s") for n in range(10)], None, "the teacher", 5)
        assert reason is not None
        assert "time_limit: not done" in reason.message


class TestSmokeTest:
    def test_too_few_that_pass_end_the_job_with_the_counts(self) -> None:
        reason = stop([BELOW] * 6 + [UNREADABLE] * 3 + [ended("failed", "ValueError: no")], teacher="teacher 2")
        assert reason is not None
        assert (reason.code, reason.param) == ("smoke_test_failed", "smoke_test")
        assert reason.message.startswith(
            "Of the first 10 examples of teacher 2 0 passed, at least 1 must: 6 scored below the bar, 3 unparsable, 1 failed. "
            "3 × AdapterParseError: found no a in the answer; 1 × ValueError: no. The job stopped before the others."
        )
        assert reason.message.endswith(reason.data["advice"])
        assert reason.data["examples"] == {"not_passed": 6, "unparsable": 3, "failed": 1}

    def test_as_many_as_asked_for_are_enough(self) -> None:
        assert stop([BELOW] * 8 + [GOOD] * 2, SmokeTest(n=10, min_pass=2)) is None
        assert stop([BELOW] * 8 + [GOOD] * 2, SmokeTest(n=10, min_pass=3)) is not None

    def test_it_ends_as_soon_as_the_rest_cannot_make_up_for_it(self) -> None:
        half_way = [BELOW] * 6 + [None] * 4
        assert message(half_way, SmokeTest(n=10, min_pass=5)).startswith(
            "Of the first 10 examples of the teacher 6 were run and 0 passed, at least 5 must: 6 scored below the bar."
        )
        assert stop(half_way, SmokeTest(n=10, min_pass=4)) is None

    def test_only_the_first_examples_count(self) -> None:
        assert stop([BELOW, GOOD] + [BELOW] * 8, SmokeTest(n=1)) is not None
        assert stop([GOOD] + [BELOW] * 9, SmokeTest(n=1)) is None

    def test_a_trainset_that_is_no_longer_is_simply_run(self) -> None:
        assert stop([BELOW] * 10, rest=0) is None

    def test_switched_off(self) -> None:
        assert stop([BELOW] * 10, None) is None

    def test_an_example_counts_by_its_best_rollout(self) -> None:
        assert outcome([UNREADABLE, BELOW, ended("failed", "ValueError: no")]).kind == "not_passed"
        assert outcome([UNREADABLE, GOOD]).kind == "passed"

    def test_more_to_pass_than_there_are_is_refused(self) -> None:
        with pytest.raises(Invalid, match="no teacher could pass"):
            read_spec({"program_id": "prog-1", "trainset": "ds-1", "smoke_test": {"n": 3, "min_pass": 4}})


class TestVerdict:
    def test_no_answer_at_all_stops_the_job_and_names_the_commonest_errors(self) -> None:
        reason = verdict({"failed": 7, "unparsable": 3, "undecided": 2}, {"ValueError: no": 7})
        assert reason is not None
        assert reason.code == "all_rollouts_failed"
        assert reason.message == (
            "10 rollouts of the teacher, 0 usable: 7 failed, 3 unparsable, 2 could not be run. 7 × ValueError: no. Nothing was trained."
        )

    def test_a_teacher_that_mostly_cannot_be_read_is_to_be_another_or_constrained(self) -> None:
        reason = verdict({"failed": 1, "unparsable": 8}, {"AdapterParseError: found no a in the answer": 8})
        assert reason is not None
        assert reason.message.endswith(
            "Nothing was trained. Name a teacher that answers in the format of the prompt, or constrain its answers: "
            "`constrain: true` of its LM."
        )

    def test_few_examples_are_judged_too(self) -> None:
        reason = verdict({"failed": 1}, {})
        assert reason is not None
        assert reason.message.startswith("1 rollout of the teacher")

    def test_one_answer_is_enough_to_go_on(self) -> None:
        assert verdict({"ok": 1, "failed": 99}, {}) is None


class TestFailedExamples:
    def test_the_commonest_cause_stands_first_and_a_code_is_told_in_words(self) -> None:
        assert failed_examples({"unparsable": 1, "time_limit": 2}, 640) == "3 of 640 examples failed: 2 timeout, 1 unparsable"
