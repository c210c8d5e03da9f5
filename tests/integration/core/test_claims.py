"""Who gets which work item: races, capabilities, width, cuts, fairness."""

from collections import Counter

import pytest

from distill.jobs.claims import WorkerInfo
from distill.jobs.slices import slice_length
from distill.jobs.status import Step
from tests.integration.core.world import World, at_once, claim, execute, items, job, publish, taken


class TestClaim:
    def test_racing_claimers_get_distinct_items(self, world: World) -> None:
        world.at_bootstrap(1, items=40, num_threads=100)
        won = [held for _ in range(5) for held in at_once(8, lambda index: claim(worker=_worker(str(index)))) if held]
        assert len(won) == 40
        assert len({held.item_id for held in won}) == 40

    def test_first_claim_makes_the_job_run(self, world: World) -> None:
        job_id = world.submit()
        held = taken()
        assert (held.job_id, held.step, held.fence, held.attempt) == (job_id, Step.VALIDATE, 1, 1)
        row = job(job_id)
        assert row.status == "running"
        assert row.started_at is not None

    def test_each_claim_raises_the_fence(self, world: World) -> None:
        world.submit()
        first = taken()
        execute("UPDATE work_items SET status = 'queued', width = 0, lease_owner = NULL, lease_expires_at = NULL")
        assert taken().fence == first.fence + 1

    def test_other_queue_has_nothing(self, world: World) -> None:
        world.submit()
        assert claim("light") is None

    def test_worker_without_the_runtime_gets_nothing(self, world: World) -> None:
        world.submit()
        assert claim(worker=WorkerInfo("bare")) is None
        assert claim() is not None

    def test_created_job_waits_for_start(self, world: World) -> None:
        world.submit(auto_start=False)
        assert claim() is None

    def test_item_waits_for_its_time(self, world: World) -> None:
        world.submit()
        execute("UPDATE work_items SET run_after = clock_timestamp() + interval '1 minute'")
        assert claim() is None

    @pytest.mark.parametrize("request_", ["cancel_requested_at", "pause_requested_at"])
    def test_no_claim_once_a_stop_is_requested(self, world: World, request_: str) -> None:
        world.submit()
        execute(f"UPDATE jobs SET {request_} = clock_timestamp()")
        assert claim() is None

    def test_waiting_connection_stops_what_needs_it(self, world: World) -> None:
        world.submit()
        execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'house')")
        execute("UPDATE connections SET waiting_since = clock_timestamp() WHERE name = 'house'")
        assert claim() is None
        execute("UPDATE connections SET waiting_since = NULL")
        assert claim() is not None


class TestWidth:
    def test_slice_takes_all_threads_and_the_next_waits(self, world: World) -> None:
        world.at_bootstrap(30, items=2, num_threads=6)
        assert taken().width == 6
        assert claim() is None

    def test_worker_limit_leaves_width_for_others(self, world: World) -> None:
        world.at_bootstrap(30, items=3, num_threads=5)
        narrow = _worker("narrow", max_width=3)
        assert [taken(worker=narrow).width, taken(worker=narrow).width] == [3, 2]
        assert claim(worker=narrow) is None

    def test_racing_claims_never_exceed_num_threads(self, world: World) -> None:
        world.at_bootstrap(30, items=8, num_threads=7)
        won = [held for held in at_once(8, lambda index: claim(worker=_worker(str(index), max_width=2))) if held]
        assert sum(held.width for held in won) <= 7
        assert sum(item.width for item in items(won[0].job_id)) <= 7

    def test_slice_is_no_wider_than_it_is_long(self, world: World) -> None:
        world.at_bootstrap(3, num_threads=50)
        assert taken().width == 3


class TestCut:
    def test_long_range_gives_its_first_part(self, world: World) -> None:
        job_id = world.at_bootstrap(30)
        held = taken()
        assert (held.payload, held.units) == ({"start": 0, "stop": 8}, 8)
        rest = [item for item in items(job_id, Step.BOOTSTRAP) if item.id != held.item_id]
        assert [(item.payload, item.units, item.status) for item in rest] == [({"start": 8, "stop": 30}, 22, "queued")]

    def test_later_slices_follow_the_measured_rate(self, world: World) -> None:
        world.at_bootstrap(10_000)
        first = taken()
        execute("UPDATE work_items SET started_at = clock_timestamp() - interval '4 seconds' WHERE id = :id", id=first.item_id)
        publish(first)
        assert 100 <= taken().units <= 120

    def test_every_example_is_in_one_slice(self, world: World) -> None:
        world.at_bootstrap(700)
        covered: Counter[int] = Counter()
        while held := claim():
            covered.update(range(held.payload["start"], held.payload["stop"]))
            closed = publish(held)
        assert covered == Counter(range(700))
        assert closed is not None

    def test_rest_is_as_old_as_its_first_part(self, world: World) -> None:
        """Else a slice of another role would overtake what was queued before it."""
        world.at_bootstrap(30, items=2, num_threads=1)
        first = taken()
        publish(first)
        assert taken().kind == first.kind

    @pytest.mark.parametrize(("rate", "length"), [(None, 8), (0.01, 8), (2.0, 120), (50.0, 512)])
    def test_length(self, rate: float | None, length: int) -> None:
        assert slice_length(rate) == length


class TestFairness:
    def test_project_with_fewer_running_items_comes_first(self, world: World) -> None:
        ours = [world.submit() for _ in range(3)]
        other, words = world.other_project("quiet")
        theirs = world.submit(other, **words)
        order = [taken().job_id for _ in range(4)]
        assert order == [ours[0], theirs, ours[1], ours[2]]

    def test_share_weighs_the_running_items(self, world: World) -> None:
        for _ in range(3):
            world.submit()
        other, words = world.other_project("bigger", share=2.0)
        for _ in range(3):
            world.submit(other, **words)
        owners = [taken().project_id for _ in range(6)]
        assert owners[:3].count(other) == 2
        assert owners[:5].count(other) == 3

    def test_priority_comes_before_age(self, world: World) -> None:
        first, second = world.submit(), world.submit()
        execute("UPDATE work_items SET priority = 5 WHERE job_id = :id", id=second)
        assert [taken().job_id, taken().job_id] == [second, first]


def _worker(name: str, max_width: int = 1000) -> WorkerInfo:
    return WorkerInfo(name, frozenset({"runtime:default"}), max_width)
