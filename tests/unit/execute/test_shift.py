"""Who is told to stop."""

from types import SimpleNamespace

import pytest

from distill.execute.run import Shift
from distill.execute.work import Work
from distill.jobs.claims import Claim
from distill.jobs.status import Step
from tests.support.databases import forget_settings


def work(job_id: str) -> Work:
    return Work(Claim(1, job_id, "proj-1", Step.BOOTSTRAP, "teacher:0", 0, {}, 1, 1, 1, 1, "worker-1", "rollouts"))


class TestLease:
    def test_is_held_until_it_may_be_anothers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that stood still finds out by its own clock, before anybody could tell it."""
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "3")
        forget_settings()
        now = [100.0]
        monkeypatch.setattr("distill.execute.work.time", SimpleNamespace(monotonic=lambda: now[0]))
        held = work("cjob-1")
        now[0] += 2.9
        assert held.is_held()
        now[0] += 0.1
        assert not held.is_held()

    def test_is_not_held_once_it_is_known_to_be_lost(self) -> None:
        lost = work("cjob-1")
        lost.stop("lost")
        assert not lost.is_held()


class TestShift:
    def test_the_end_of_a_job_stops_its_items_alone(self) -> None:
        shift, ours, theirs = Shift(), work("cjob-1"), work("cjob-2")
        shift.begin(ours)
        shift.begin(theirs)
        shift.end_job("cjob-1")
        assert (ours.stop_reason, theirs.stop_reason) == ("cancel", None)

    def test_the_end_of_the_shift_stops_all_of_them_and_those_that_come_later(self) -> None:
        shift, early, late = Shift(), work("cjob-1"), work("cjob-2")
        shift.begin(early)
        shift.stop()
        shift.begin(late)
        assert (early.stop_reason, late.stop_reason) == ("drain", "drain")
