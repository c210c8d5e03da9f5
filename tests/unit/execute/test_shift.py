"""Who is told to stop."""

from distill.execute.run import Shift
from distill.execute.work import Work
from distill.jobs.claims import Claim
from distill.jobs.status import Step


def work(job_id: str) -> Work:
    return Work(Claim(1, job_id, "proj-1", Step.BOOTSTRAP, "teacher:0", 0, {}, 1, 1, 1, 1, "worker-1", "rollouts"))


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
