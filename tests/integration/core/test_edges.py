"""Every edge of the charts in docs/lifecycle.md is walked by the services, and no other."""

from distill.db import Session, unit_of_work
from distill.errors import JobFault
from distill.jobs import claims, pausing, retrying, service
from distill.jobs.claims import StepClosed
from distill.jobs.models import Job
from distill.jobs.status import JobStatus
from tests.integration.core import edges
from tests.integration.core.every_status import fill, open_train
from tests.integration.core.world import World, cancel, job, pause, publish, taken

FAULT = JobFault("no_luck", "It did not work", step="bootstrap")


def retry(world: World, job_id: str) -> None:
    with unit_of_work() as s:
        retrying.retry(s, world.project_id, job_id)


def fail(job_id: str) -> None:
    with unit_of_work() as s:
        claims.fail_job(s, job_id, FAULT)


class TestEdges:
    def test_all_and_no_others(self, world: World) -> None:
        edges.watch()
        self._callers(world)
        self._failures(world)
        self._keys(world)
        fill(world.store)
        assert edges.seen() == edges.drawn()

    def _callers(self, world: World) -> None:
        started, dropped = world.submit(auto_start=False), world.submit(auto_start=False)
        with unit_of_work() as s:
            service.start(s, world.project_id, started)
        cancel(world, dropped)
        cancel(world, started)
        paused = world.at_bootstrap()
        pause(world, paused)
        with unit_of_work() as s:
            pausing.resume(s, world.project_id, paused)
        pause(world, paused)
        cancel(world, paused)

    def _failures(self, world: World) -> None:
        never_ran = world.submit()
        fail(never_ran)
        retry(world, never_ran)
        cancel(world, never_ran)
        failed = world.at_bootstrap(items=2)
        with unit_of_work() as s:
            claims.release(s, taken())
        with unit_of_work() as s:
            claims.fail(s, taken(), FAULT)
        retry(world, failed)
        cancel(world, failed)
        self._in_vain(world)

    def _in_vain(self, world: World) -> None:
        """All was done, and came to nothing: the step begins anew."""

        def not_worthwhile(s: Session, row: Job, _: StepClosed) -> None:
            claims.fail_job(s, row.id, FAULT)

        job_id = world.at_bootstrap(1)
        publish(taken(), on_closed=not_worthwhile)
        retry(world, job_id)
        cancel(world, job_id)

    def _keys(self, world: World) -> None:
        job_id = open_train(world, "fg")
        held = taken("train")
        fail(job_id)
        retry(world, job_id)
        with unit_of_work() as s:
            claims.fail(s, held, FAULT)
        with unit_of_work() as s:
            claims.fail(s, taken("train"), FAULT)
        assert job(job_id).status == JobStatus.FAILED
        retry(world, job_id)
        cancel(world, job_id)
