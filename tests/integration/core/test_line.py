"""What a job says while its work does not run, and its place in line."""

import math
import time
from typing import Any

import pytest
from sqlalchemy import text

from distill.catalog import devices, waits
from distill.db import Session, unit_of_work
from distill.jobs import claims, line, repository, service, steps, workers
from distill.jobs.claims import Claim, StepClosed, WorkerInfo
from distill.jobs.line import Waiting
from distill.jobs.models import Job
from distill.jobs.status import Step
from tests.integration.core.world import WORKER, World, claim, connection, execute, publish, taken
from tests.support.statements import counted


@pytest.fixture(autouse=True)
def alive(world: World) -> None:
    """A worker for everything."""
    with unit_of_work() as s:
        workers.seen(s, "w1", ["light", "rollouts", "train"], WORKER.capabilities)


def waiting(*job_ids: str) -> list[Waiting | None]:
    with unit_of_work() as s:
        found = line.waiting(s, [repository.by_id(s, job_id) for job_id in job_ids])
    return [found.get(job_id) for job_id in job_ids]


def reason(job_id: str) -> str | None:
    (found,) = waiting(job_id)
    return found.reason if found else None


class TestPlace:
    def test_in_line_by_priority_then_age_within_the_project(self, world: World) -> None:
        first, second, third = (world.submit() for _ in range(3))
        project, words = world.other_project("other")
        elsewhere = world.submit(project, **words)
        execute("UPDATE jobs SET priority = 1 WHERE id = :id", id=third)
        assert waiting(first, second, third, elsewhere) == [
            Waiting(2, "1 job ahead in the project"),
            Waiting(3, "2 jobs ahead in the project"),
            Waiting(1, "waits for a worker"),
            Waiting(1, "waits for a worker"),
        ]

    def test_a_job_whose_work_runs_says_nothing(self, world: World) -> None:
        job_id = world.submit()
        taken()
        assert waiting(job_id) == [None]

    @pytest.mark.parametrize("change", ["cancel_requested_at = now()", "status = 'succeeded', started_at = now(), finished_at = now()"])
    def test_a_job_that_is_over_or_was_never_started_is_not_in_line(self, world: World, change: str) -> None:
        job_id, created = world.submit(), world.submit(auto_start=False)
        execute(f"UPDATE jobs SET {change} WHERE id = :id", id=job_id)
        assert waiting(job_id, created) == [None, None]

    def test_a_page_of_jobs_costs_one_statement(self, world: World) -> None:
        jobs = [world.submit() for _ in range(20)]
        with unit_of_work() as s:
            rows = [repository.by_id(s, job_id) for job_id in jobs]
            with counted() as sent:
                assert len(line.waiting(s, rows)) == 20
        assert len(sent) == 1


class TestReasons:
    def test_a_connection_is_named_with_what_is_the_matter(self, world: World) -> None:
        job_id = world.at_bootstrap()
        execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'teachers')")
        said = []
        for why in ("rate_limited", "quota_exhausted", "unavailable"):
            with unit_of_work() as s:
                waits.limit(s, connection("teachers").id, why, None, tried=True)
            said.append(reason(job_id))
        assert said == [f"waiting for teachers: {words}" for words in ("rate limited", "out of quota", "not reachable")]
        held = claim()
        assert held is None
        with unit_of_work() as s:
            waits.end(s, [connection("teachers").id], 0)
        assert reason(job_id) == "waits for a worker"

    def test_a_device_that_was_handed_over(self, world: World) -> None:
        job_id = world.at_bootstrap()
        execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'house')")
        with unit_of_work() as s:
            devices.configure(s, "cpu-0", "pause")
            item = repository.items(s, job_id, "bootstrap")[0].id
            state = devices.acquire(s, "cpu-0", item, 60)
            assert state is not None
            assert devices.acknowledge(s, "cpu-0", state.fence)
        assert reason(job_id) == "waiting for house: device handed over to training"

    def test_no_worker_listens(self, world: World) -> None:
        job_id = world.submit()
        with unit_of_work() as s:
            workers.gone(s, "w1")
            workers.seen(s, "w2", ["light"], WORKER.capabilities)
        assert reason(job_id) == "no worker is alive for the queue rollouts"

    def test_no_worker_listens_where_the_last_part_of_prepare_waits(self, world: World) -> None:
        job_id = world.submit()
        with unit_of_work() as s:
            steps.open_step(s, repository.lock(s, job_id), Step.ASSEMBLE, [steps.NewItem("assemble", {}, 1)])
            s.execute(text("UPDATE jobs SET step = 'prepare' WHERE id = :id"), {"id": job_id})
            workers.gone(s, "w1")
        assert reason(job_id) == "no worker is alive for the queue light"

    def test_no_worker_can(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE work_items SET needs = '{runtime:py313}'")
        assert reason(job_id) == "no worker with runtime:py313 is alive for the queue rollouts"

    def test_a_worker_that_was_not_heard_of_lately_is_not_alive(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE workers SET seen_at = clock_timestamp() - interval '10 seconds'")
        assert reason(job_id) == "waits for a worker"
        execute("UPDATE workers SET seen_at = clock_timestamp() - interval '31 seconds'")
        assert reason(job_id) == "no worker is alive for the queue rollouts"

    def test_a_fault_that_passes(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE work_items SET run_after = clock_timestamp() + interval '40 seconds'")
        began = time.monotonic()
        said = reason(job_id)
        took = time.monotonic() - began
        assert said in {f"will be tried again in {seconds} s" for seconds in range(math.ceil(40 - took), 41)}

    def test_the_jobs_own_width(self, world: World) -> None:
        job_id = world.at_bootstrap(30, items=2, num_threads=6)
        assert taken().width == 6
        assert waiting(job_id) == [Waiting(None, "all 6 threads of the job are in use")]

    def test_width_that_is_left_says_nothing(self, world: World) -> None:
        job_id = world.at_bootstrap(30, items=2, num_threads=6)
        taken(worker=WorkerInfo("narrow", WORKER.capabilities, max_width=2))
        assert waiting(job_id) == [None]

    def test_what_is_held_until_training_is_over(self, world: World) -> None:
        job_id = world.submit()
        opened = [steps.NewItem("compiled", {"start": 0, "stop": 4}, 4, held=True)]
        publish(taken(), on_closed=lambda s, job, _: steps.open_step(s, job, Step.EVALUATE, opened))
        assert reason(job_id) == "the compiled program is measured when its training is over and its models are loaded"

    def test_a_paused_job_is_in_no_line(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE jobs SET status = 'paused', pause_requested_at = clock_timestamp()")
        assert waiting(job_id) == [None]


def at_train(world: World, project: str | None = None, rows: int = 100, **words: Any) -> str:
    """A job whose one training could begin."""
    job_id = world.submit(project, **words)

    def opening(s: Session, job: Job, _: StepClosed) -> None:
        new = service.NewFineTuneJob("k", "", ("student",), ("self",), connection("house").id, "tiny", "local", {})
        (key,) = service.create_fine_tune_jobs(s, job, [new])
        s.execute(text("UPDATE fine_tune_jobs SET rows = :rows WHERE id = :id"), {"rows": rows, "id": key.id})
        steps.open_step(s, job, Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key.id, needs=("trainer:local",))])

    publish(taken(), on_closed=opening)
    return job_id


def granted(held: Claim) -> None:
    """The LM host hands its device over to this training."""
    with unit_of_work() as s:
        state = claims.lease_device(s, held, str(connection("house").device))
        assert state is not None
        assert devices.acknowledge(s, state.id, state.fence)


class TestTrainers:
    def test_jobs_of_all_projects_wait_in_the_order_in_which_they_will_be_claimed(self, world: World) -> None:
        project, words = world.other_project("other")
        first, second, third = (at_train(world) for _ in range(3))
        elsewhere = at_train(world, project, **words)
        granted(taken("train"))
        assert waiting(first) == [None]
        (next_one,) = waiting(elsewhere)
        assert next_one is not None
        assert (next_one.position, next_one.resource, [holder.job_id for holder in next_one.held_by]) == (1, "trainer", [first])
        assert [each and (each.position, each.reason) for each in waiting(second, third)] == [
            (2, "waits for a trainer: 1 job ahead"),
            (3, "waits for a trainer: 2 jobs ahead"),
        ]
        publish_training(first)
        assert [taken("train").job_id for _ in range(3)] == [elsewhere, second, third]

    def test_the_wait_is_what_the_holder_has_left_and_those_ahead_usually_take(self, world: World) -> None:
        trained = at_train(world, rows=50)
        taken("train")
        publish_training(trained, seconds=100)
        holder, second, third = at_train(world), at_train(world, rows=30), at_train(world)
        granted(taken("train"))
        execute("UPDATE fine_tune_jobs SET progress = '{\"seconds_remaining\": 40.2}' WHERE job_id = :id", id=holder)
        assert [each and each.seconds for each in waiting(second, third)] == [41, 101]

    def test_nobody_guesses_how_long_a_first_training_takes(self, world: World) -> None:
        at_train(world)
        second = at_train(world)
        taken("train")
        assert [each and each.seconds for each in waiting(second)] == [None]

    def test_a_training_that_waits_for_its_device_comes_before_those_without_a_trainer(self, world: World) -> None:
        holder, second, third = (at_train(world) for _ in range(3))
        granted(taken("train"))
        taken("train")
        device, trainer = waiting(second, third)
        assert device is not None
        assert trainer is not None
        assert (device.resource, device.position, device.reason) == (
            "device",
            1,
            f"waits for the device {connection('house').device}: next in turn",
        )
        assert (trainer.resource, trainer.position) == ("trainer", 2)
        assert [each.job_id for each in (*device.held_by, *trainer.held_by)] == [holder, holder]

    def test_what_a_later_step_waits_for_is_no_reason_while_this_one_runs(self, world: World) -> None:
        job_id = world.at_bootstrap(4)
        taken()
        house = connection("house")
        with unit_of_work() as s:
            baseline = steps.NewItem("baseline", {"start": 0, "stop": 4}, 4, connections=(house.id,))
            steps.open_step(s, repository.lock(s, job_id), Step.EVALUATE, [baseline])
        execute("UPDATE connections SET waiting_since = clock_timestamp() WHERE id = :id", id=house.id)
        assert waiting(job_id) == [None]


def publish_training(job_id: str, seconds: float | None = None) -> None:
    """The training of a job ends well."""
    with unit_of_work() as s:
        (item,) = repository.items(s, job_id, Step.TRAIN)
        held = Claim(item.id, job_id, "", Step.TRAIN, "train", 0, {}, 1, 1, item.fence, 1, "tester", "train", item.fine_tune_job_id)
        claims.publish(s, held)
    execute("UPDATE fine_tune_jobs SET result = json_build_object('seconds', CAST(:s AS float)) WHERE job_id = :id", id=job_id, s=seconds)
