"""Who gets which work item: races, capabilities, width, cuts, fairness."""

from collections import Counter

import pytest
from sqlalchemy import text

from distill.catalog import projects
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.jobs import claims, line, repository, service, workers
from distill.jobs.claims import WorkerInfo
from distill.jobs.slices import slice_length
from distill.jobs.status import Step
from distill.jobs.steps import NewItem, open_step
from distill.settings import ProjectSettings, get_settings
from tests.integration.core.world import WORKER, World, at_once, claim, execute, items, job, publish, settings, taken


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
        execute("UPDATE jobs SET priority = 5 WHERE id = :id", id=second)
        assert [taken().job_id, taken().job_id] == [second, first]

    def test_an_older_job_comes_first_in_all_its_steps(self, world: World) -> None:
        """Else every job would wait at each step for all that were made meanwhile, and none would end before the last has begun."""
        first = world.submit()
        validate = taken()
        second = world.submit()
        opened = [NewItem("teacher:0", {"start": 0, "stop": 4}, 4)]
        publish(validate, on_closed=lambda s, job, _: open_step(s, job, Step.BOOTSTRAP, opened))
        assert [taken().job_id, taken().job_id] == [first, second]

    @pytest.mark.parametrize(("share", "turns"), [(1.0, {4}), (3.0, {5, 6})])
    def test_one_worker_alone_serves_projects_in_turn(self, world: World, share: float, turns: set[int]) -> None:
        """Nothing runs when it claims, so nobody is ahead by what runs."""
        for _ in range(8):
            world.submit()
        other, words = world.other_project("late", share)
        for _ in range(8):
            world.submit(other, **words)
        served = []
        for number in range(8):
            held = taken()
            served.append(held.project_id)
            publish(held, on_closed=lambda s, job, _: service.succeed(s, job))
            execute("UPDATE projects SET served_at = served_at - interval '1 minute'")  # as long as an item takes
            assert number == 0 or other in served[:2]
        assert served.count(other) in turns


class TestCaps:
    def test_a_projects_threads_are_those_of_all_its_jobs(self, world: World) -> None:
        cap(world, "support", 10)
        first, second = world.at_bootstrap(30, num_threads=8), world.at_bootstrap(30, num_threads=8)
        assert [(held.job_id, held.width) for held in (taken(), taken())] == [(first, 8), (second, 2)]
        assert claim() is None
        assert (why(first), why(second)) == ("all 10 threads of the project are in use",) * 2

    def test_another_project_goes_on(self, world: World) -> None:
        cap(world, "support", 1)
        for _ in range(2):
            world.submit()
        other, words = world.other_project("other")
        theirs = [world.submit(other, **words) for _ in range(2)]
        assert len({taken().job_id for _ in range(3)} & set(theirs)) == 2
        assert claim() is None

    def test_racing_claims_never_exceed_a_projects_threads(self, world: World) -> None:
        for round_ in range(5):
            cap(world, "support", 5 + round_)
            jobs = [world.at_bootstrap(30, num_threads=4) for _ in range(6)]
            won = [held for held in at_once(8, lambda index: claim(worker=_worker(str(index), max_width=2))) if held]
            assert sum(held.width for held in won) == 5 + round_
            with unit_of_work() as s:
                for job_id in jobs:
                    service.cancel(s, world.project_id, job_id)
                for held in won:
                    claims.release(s, held)

    def test_racing_claims_never_exceed_the_servers_threads(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_LIMITS__MAX_THREADS", "5")
        get_settings.cache_clear()
        other, words = world.other_project("other")
        for _ in range(4):
            world.at_bootstrap(30, num_threads=4)
            world.at_bootstrap(30, num_threads=4, project_id=other, **words)
        won = [held for held in at_once(8, lambda index: claim(worker=_worker(str(index), max_width=2))) if held]
        assert sum(held.width for held in won) == 5
        assert why(won[0].job_id) == "all 5 threads of the server are in use"

    def test_what_the_settings_no_longer_say_is_as_usual(self, world: World) -> None:
        cap(world, "support", 3, share=2.0)
        with unit_of_work() as s:
            projects.sync(s, settings(projects={}), reset_others=False)
            assert (projects.get(s, "support").max_threads, projects.get(s, "support").share) == (3, 2.0)
            projects.sync(s, settings(projects={"new": ProjectSettings(share=4)}))
            s.expire_all()
            assert (projects.get(s, "support").max_threads, projects.get(s, "support").share) == (None, 1.0)
            assert projects.get(s, "new").share == 4

    def test_a_name_that_no_project_can_have_is_refused(self, world: World) -> None:
        with unit_of_work() as s, pytest.raises(Invalid, match=r"\[projects\.two words\]: letters, digits"):
            projects.sync(s, settings(projects={"two words": ProjectSettings()}))

    def test_whose_phone_numbers_are_scrubbed_is_a_country_that_there_is(self, world: World) -> None:
        with unit_of_work() as s:
            for said, stored in ((True, "ZZ"), ("DE", "DE"), (False, None)):
                projects.sync(s, settings(projects={"support": ProjectSettings(scrub=said)}))
                s.expire_all()
                assert projects.get(s, "support").scrub == stored
            with pytest.raises(Invalid, match="no country has the code XX"):
                projects.sync(s, settings(projects={"support": ProjectSettings(scrub="XX")}))


class TestAtScale:
    @pytest.mark.parametrize("jobs", [50, pytest.param(1000, marks=pytest.mark.slow)])
    def test_a_claim_reads_few_of_the_rows_that_are_queued(self, world: World, jobs: int) -> None:
        """Rows, not time: the busiest of machines says the same."""
        crowd(world, jobs)
        assert rows_read() < 400  # with its one job's 100 items


def crowd(world: World, jobs: int) -> None:
    """So many more jobs in bootstrap, with 100 queued items each."""
    like = world.at_bootstrap(1, items=100, num_threads=100)
    execute(
        """
        INSERT INTO jobs (id, project_id, program_name, status, step, spec, spec_digest, num_threads, queued_at, started_at)
        SELECT id || '-' || number, project_id, program_name, status, step, spec, spec_digest, num_threads, queued_at, started_at
          FROM jobs, generate_series(2, :jobs) AS number WHERE id = :like
        """,
        like=like,
        jobs=jobs,
    )
    execute(
        """
        INSERT INTO work_items (job_id, step, kind, queue, needs)
        SELECT j.id, w.step, w.kind, w.queue, w.needs FROM work_items w, jobs j
         WHERE w.job_id = :like AND w.status = 'queued' AND j.id LIKE :like || '-%'
        """,
        like=like,
    )
    execute("ANALYZE jobs, work_items")


def rows_read() -> int:
    """By one claim, all tables together."""
    read = text("SELECT COALESCE(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables")
    with unit_of_work() as s:
        before = int(s.scalar(read) or 0)
        assert claims.claim(s, "rollouts", WORKER) is not None
        return int(s.scalar(read) or 0) - before


def cap(world: World, project: str, threads: int, share: float = 1.0) -> None:
    with unit_of_work() as s:
        projects.sync(s, settings(projects={project: ProjectSettings(share=share, max_threads=threads)}))


def why(job_id: str) -> str | None:
    with unit_of_work() as s:
        workers.seen(s, "w1", ["light", "rollouts", "train"], ["runtime:default"])
        found = line.waiting(s, [repository.by_id(s, job_id)]).get(job_id)
    return found.reason if found else None


def _worker(name: str, max_width: int = 1000) -> WorkerInfo:
    return WorkerInfo(name, frozenset({"runtime:default"}), max_width)
