from typing import Any

import pytest

from distill.pipeline.bootstrap import (
    SMOKE_TEST_EXAMPLES,
    SMOKE_TEST_ROLLOUTS,
    Missing,
    SmokeTest,
    Stored,
    example_is_done,
    missing,
    verdict,
)
from distill.pipeline.refusals import failed_examples

OK: dict[str, Any] = {"status": "ok"}
PASS: dict[str, Any] = {"status": "ok", "passed": True, "value": 1.0}
LOST = ["failed", "unparsable", "failed", "failed"]
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


class TestSmokeTest:
    def test_ten_examples_without_any_answer_fail_it(self) -> None:
        smoke = SmokeTest({"failed_examples": 8, "failed": 20, "unparsable": 12})
        smoke.add(LOST)
        assert not smoke.failed
        smoke.add(LOST)
        assert smoke.failed

    def test_rollouts_of_one_example_are_one_failure(self) -> None:
        smoke = SmokeTest({})
        smoke.add(["unparsable"] * 64)
        assert not smoke.failed

    def test_an_example_counts_once_all_its_rollouts_are_over(self) -> None:
        smoke = SmokeTest({"failed_examples": 9, "failed": 36})
        for done in range(1, 5):
            assert not smoke.failed
            smoke.add(["failed"] * done + [None] * (4 - done))
        assert smoke.failed

    def test_with_one_rollout_an_example_it_waits_for_more_of_them(self) -> None:
        smoke = SmokeTest({})
        for _ in range(SMOKE_TEST_ROLLOUTS - 1):
            smoke.add(["unparsable"])
        assert not smoke.failed
        smoke.add(["unparsable"])
        assert smoke.failed

    @pytest.mark.parametrize("rollouts", [1, 2, 4, 8])
    def test_a_teacher_that_answers_one_time_in_five_does_not_fail_by_chance(self, rollouts: int) -> None:
        examples = max(SMOKE_TEST_EXAMPLES, SMOKE_TEST_ROLLOUTS / rollouts)
        assert 0.8 ** (examples * rollouts) < 1 / 500

    def test_one_answer_is_enough_to_go_on(self) -> None:
        for smoke in (SmokeTest({"ok": 1}), SmokeTest({})):
            smoke.add(["failed", "ok", None, None])
            for _ in range(99):
                smoke.add(LOST)
            assert not smoke.failed

    def test_it_may_look_away(self) -> None:
        assert not SmokeTest({"failed_examples": 99, "failed": 99}, watching=False).failed


class TestVerdict:
    def test_no_answer_at_all_stops_the_job_and_names_the_commonest_errors(self) -> None:
        reason = verdict({"failed": 7, "unparsable": 3, "undecided": 2}, {"ValueError: no": 7})
        assert reason is not None
        assert reason.code == "all_rollouts_failed"
        assert reason.message == (
            "10 rollouts of the teacher, 0 usable: 7 failed, 3 unparsable, 2 could not be run. 7 × ValueError: no. Nothing was trained."
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
