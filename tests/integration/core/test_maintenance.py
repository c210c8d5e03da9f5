"""A drained server: nobody claims, holders let go, and the end of the drain wakes what waits."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from typer.testing import CliRunner

from distill.db import unit_of_work
from distill.errors import Unavailable
from distill.jobs import caps, claims, line, maintenance, outbox, repository
from distill.jobs.outbox import Hint
from stack.cli import app as server_cli
from tests.integration.core.world import World, claim, execute, job, taken


def begin(reason: str | None = None) -> None:
    with unit_of_work() as s:
        maintenance.begin(s, reason)


def end() -> None:
    with unit_of_work() as s:
        maintenance.end(s)


def hints() -> list[Hint]:
    with unit_of_work() as s:
        return outbox.take(s)


class TestDrain:
    def test_nothing_is_claimed_and_what_runs_is_given_back(self, world: World) -> None:
        job_id = world.at_bootstrap(20, items=2, num_threads=4)
        held = taken()
        begin()
        assert claim() is None
        with unit_of_work() as s:
            assert claims.beat(s, held).pause
            assert maintenance.read(s).running_items == 1
            claims.release(s, held)
        row = job(job_id)
        assert (row.status, row.pause_reason) == ("running", None)
        with unit_of_work() as s:
            assert maintenance.read(s).running_items == 0
            assert line.waiting(s, [repository.get(s, world.project_id, job_id)])[job_id].reason.startswith(
                "the server is under maintenance"
            )
        assert claim() is None

    def test_its_end_hints_at_all_work_that_waits(self, world: World) -> None:
        world.at_bootstrap(20, items=2)
        begin()
        hints()
        end()
        assert hints() == [Hint("rollouts", 2)]
        assert claim() is not None

    def test_new_jobs_are_refused_with_the_reason(self, world: World) -> None:
        begin()
        begin("new disks")
        with pytest.raises(Unavailable, match=r"under maintenance \(new disks\)") as refused:
            world.submit()
        assert (refused.value.code, refused.value.retry_after) == ("maintenance", 120)
        end()
        end()
        world.submit()


def test_a_raised_limit_hints_at_the_work_of_its_project(world: World) -> None:
    world.submit()
    other, theirs = world.other_project("other")
    world.submit(other, **theirs)
    execute("UPDATE projects SET max_threads = 1 WHERE id = :id", id=world.project_id)
    hints()
    with unit_of_work() as s:
        caps.change_limits(s, world.project_id, {"max_threads": 2})
    assert hints() == [Hint("rollouts", 1)]


class TestCommand:
    def test_waits_until_nothing_is_held_and_says_how_much_is(self, world: World) -> None:
        world.at_bootstrap(20, items=2, num_threads=4)
        held = taken()
        with ThreadPoolExecutor() as threads:
            command = threads.submit(CliRunner().invoke, server_cli, ["drain", "--wait", "--timeout", "60"])
            with unit_of_work() as s:
                while not maintenance.is_drained(s) and not command.done():
                    wait([command], timeout=0.01)
            with unit_of_work() as s:
                claims.release(s, held)
            ended = command.result()
        assert ended.exit_code == 0, ended.output
        assert ended.output.splitlines()[-1].endswith("work items still held: 0")

    def test_fails_when_its_time_is_over_and_the_server_stays_drained(self, world: World) -> None:
        world.at_bootstrap(20, items=2, num_threads=4)
        taken()
        ended = CliRunner().invoke(server_cli, ["drain", "--wait", "--timeout", "0.01"])
        assert ended.exit_code == 1
        assert "Waiting for 1 work item" in ended.output
        assert "after 0.01 s 1 work item is still held; the server stays drained" in ended.output
        with unit_of_work() as s:
            assert maintenance.is_drained(s)

    def test_a_timeout_needs_something_to_wait_for(self, database: str) -> None:
        ended = CliRunner().invoke(server_cli, ["drain", "--timeout", "5"])
        assert (ended.exit_code, "--timeout goes with --wait" in ended.output) == (1, True)
        with unit_of_work() as s:
            assert not maintenance.is_drained(s)
