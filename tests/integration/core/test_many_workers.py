"""Eight real workers on one queue: what they run is run once, and nobody's work waits for all of somebody else's."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from tests.integration.core.test_dispatch import process, wait_for
from tests.integration.core.world import World, execute, items, job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORKERS = 8
QUIET = ("--without-gossip", "--without-mingle")
APP = "tests.integration.core.counting_worker"
CELERY = ("celery", "-A", APP, "worker", "-Q", "rollouts", "--pool", "threads", "-c", "1", "-l", "info")
EACH = 125
"""Work items for each worker. By hand 1,000, which is 8,000 in all: change it and run this file."""
PATIENCE = 300 + EACH


@pytest.fixture
def crew(world: World, redis_url: str) -> Iterator[None]:
    """A dispatcher and the workers, all ready; `executions` has a row for each time that an item was run."""
    execute("CREATE TABLE executions (item_id bigint, job_id text, process int, at timestamptz DEFAULT clock_timestamp())")
    with ExitStack() as running:
        running.callback(execute, "DROP TABLE executions")
        workers = [process(*CELERY, *QUIET, "-n", f"counting-{number}@%h") for number in range(WORKERS)]
        with ThreadPoolExecutor(WORKERS + 1) as pool:
            list(pool.map(running.enter_context, [process("workers.dispatcher"), *workers]))
        yield


def number(question: str, **values: object) -> int:
    with unit_of_work() as s:
        return int(s.scalar(text(question), values) or 0)


@pytest.mark.usefixtures("crew")
class TestManyWorkers:
    def test_each_of_many_items_is_run_once(self, world: World) -> None:
        began, many = time.monotonic(), WORKERS * EACH
        jobs = [world.submit(name=str(many // 4), num_threads=64, seed=seed) for seed in range(4)]
        for job_id in jobs:
            wait_for(job_id, lambda job_id=job_id: job(job_id).status == "succeeded", PATIENCE)  # type: ignore[misc]
        print(f"{WORKERS} workers ran {many} items in {time.monotonic() - began:.1f} s")
        assert number("SELECT count(*) FROM executions") == many
        assert number("SELECT count(DISTINCT item_id) FROM executions") == many
        assert number("SELECT count(DISTINCT process) FROM executions") == WORKERS
        found = [item for job_id in jobs for item in items(job_id)]
        assert {(item.status, item.fence, item.attempts, item.losses) for item in found} == {("succeeded", 1, 1, 0)}

    def test_ten_items_do_not_wait_for_another_projects_ten_thousand(self, world: World) -> None:
        """Of the others, no more begin meanwhile than these ten, and what every worker may have claimed before it could see what the rest
        had claimed: once when the ten came, and once when they had their share."""
        many = world.submit(name="10000", num_threads=1000)
        wait_for(many, lambda: number("SELECT count(*) FROM executions WHERE job_id = :id", id=many) > 100, PATIENCE)
        project, words = world.other_project("late")
        few = world.submit(project, **words, name="10", num_threads=1000)
        wait_for(few, lambda: job(few).status == "succeeded", PATIENCE)
        overtook = number(
            """
            SELECT count(*) FROM executions
             WHERE job_id = :many AND at > (SELECT opened_at FROM job_steps WHERE job_id = :few AND name = 'bootstrap')
               AND at < (SELECT max(at) FROM executions WHERE job_id = :few)
            """,
            many=many,
            few=few,
        )
        assert overtook <= 10 + 2 * WORKERS
        assert number("SELECT count(*) FROM work_items WHERE job_id = :id AND status = 'queued'", id=many) > 9_000
