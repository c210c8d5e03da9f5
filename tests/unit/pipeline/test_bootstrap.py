from typing import Any

import pytest

from distill.pipeline.bootstrap import Missing, SmokeTest, Stored, example_is_done, missing, verdict

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


class TestSmokeTest:
    def test_ten_failures_and_no_answer_fail_it(self) -> None:
        smoke = SmokeTest({"failed": 7, "unparsable": 2})
        assert not smoke.failed
        smoke.add("failed")
        assert smoke.failed

    def test_one_answer_is_enough_to_go_on(self) -> None:
        smoke = SmokeTest({"ok": 1})
        smoke.add("failed", 99)
        assert not smoke.failed

    def test_it_may_look_away(self) -> None:
        assert not SmokeTest({"failed": 99}, watching=False).failed


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
