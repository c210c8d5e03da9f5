"""Rows in every status, made by the services that make them in earnest."""

from distill.db import Session, unit_of_work
from distill.errors import JobFault
from distill.jobs import claims, pausing, service, steps
from distill.jobs.claims import Claim, StepClosed
from distill.jobs.models import Job
from distill.jobs.status import Step
from distill.storage import BlobStore
from tests.integration.core.world import World, connection, publish, taken

OPTIONS = {"n_epochs": 1}


def fill(store: BlobStore) -> None:
    """Jobs in every status; steps, work items and fine-tune jobs in each of theirs come with them."""
    world = World(store).build()
    _succeeded(world)
    _failed(world)
    _cancelled(world)
    _paused(world)
    _trained(world)
    running = world.at_bootstrap(items=2)
    assert taken().job_id == running
    world.submit()
    world.submit(auto_start=False)


def _succeeded(world: World) -> None:
    world.submit()
    publish(taken(), on_closed=lambda s, job, _: service.succeed(s, job))


def _failed(world: World) -> None:
    world.at_bootstrap(items=2)
    held = taken()
    with unit_of_work() as s:
        claims.fail(s, held, JobFault("no_luck", "It did not work"))


def _cancelled(world: World) -> None:
    job_id = world.at_bootstrap(items=2)
    with unit_of_work() as s:
        service.cancel(s, world.project_id, job_id)


def _paused(world: World) -> None:
    job_id = world.submit()
    with unit_of_work() as s:
        pausing.pause(s, world.project_id, job_id)


def _trained(world: World) -> None:
    """One key that is trained, one that failed, one under way, one that waits; and, with the job of another, one that was cancelled."""
    open_train(world, "abcd")
    for end in (_publish, _fail):
        end(_next_train())
    _next_train()
    cancelled = open_train(world, "e")
    with unit_of_work() as s:
        service.cancel(s, world.project_id, cancelled)


def _publish(held: Claim) -> None:
    publish(held)


def _fail(held: Claim) -> None:
    with unit_of_work() as s:
        claims.fail(s, held, JobFault("no_luck", "It did not learn"))


def _next_train() -> Claim:
    return taken("train")


def open_train(world: World, keys: str) -> str:
    """A job at `train` with a key for each letter."""
    job_id = world.submit(num_threads=4)
    house = connection("house").id

    def opening(s: Session, job: Job, _: StepClosed) -> None:
        new = [service.NewFineTuneJob(key, "", ("student",), ("self",), house, "tiny", "local", OPTIONS) for key in keys]
        made = service.create_fine_tune_jobs(s, job, new)
        items = [steps.NewItem("train", fine_tune_job_id=row.id) for row in made]
        steps.open_step(s, job, Step.TRAIN, items)

    held = taken()
    assert held.job_id == job_id
    publish(held, on_closed=opening)
    return job_id
