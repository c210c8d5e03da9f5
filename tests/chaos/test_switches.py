"""The checkers themselves: for each invariant the code is broken on purpose, and it is that invariant which is found to be violated."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.homes import home
from tests.chaos.invariants import Violation, violations
from tests.chaos.jobs import anchors, body, odd
from tests.chaos.world import World
from tests.support.server_process import processes_with, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def unsound(tiny_model: Path) -> Iterator[World]:
    """A world for this module alone: what was violated in it stays so."""
    with home() as folder, World(folder, tiny_model.parent) as world:
        world.wait_over([world.submit(body(anchors()))])
        yield world


@pytest.fixture
def world(unsound: World) -> Iterator[World]:
    unsound.wait_whole()
    yield unsound
    unsound.lm.latency = unsound.latency
    _end_leaks(unsound)
    unsound.wait_over(list(unsound.accepted))


def _end_leaks(world: World) -> None:
    for pid in processes_with("STILLHOUSE_HOME", str(world.home)):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep":
            os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------ what is done; with the code whole, each leaves no violation


def a_job_runs(world: World) -> None:
    world.wait_over([world.submit(body(anchors() + odd(_name(world), 2)))])


def its_worker_is_killed(world: World) -> None:
    with faults.teacher_silent(world):
        job = world.submit(body(anchors() + odd(_name(world), 12)))
        wait_until(lambda: world.lm.in_flight > 0, "a call")
        faults.kill(world, world.wait_held(job, "bootstrap"))


def it_runs_in_several_pieces(world: World) -> None:
    world.lm.latency = 0.5
    world.wait_over([world.submit(body(anchors() + odd(_name(world), 30), smoke_test={"n": 4, "min_pass": 1}))])


def its_worker_stands_still_until_another_has_begun(world: World) -> None:
    with ExitStack() as stands_still:
        with faults.teacher_silent(world):
            job = world.submit(body(anchors() + odd(_name(world), 6), num_threads=8))
            wait_until(lambda: world.lm.in_flight == 6, "all calls of the job")
            stands_still.enter_context(faults.stalled(world, world.wait_held(job, "bootstrap")))
        wait_until(lambda: world.lm.in_flight == 0, "all answers")
        world.lm.latency = 5.0
        again = "SELECT 1 FROM work_items WHERE job_id = %s AND step = 'bootstrap' AND status = 'leased' AND fence = 2"
        wait_until(lambda: bool(world.query(again, job)), "another worker has it")
        wait_until(lambda: world.lm.in_flight == 6, "the calls of the other worker")
    world.wait_over([job])


def a_piece_fails_more_often_than_it_may(world: World) -> None:
    """With the code whole, nothing fails."""
    job = world.submit(body(anchors() + odd(_name(world), 2)))
    tried = "SELECT 1 FROM chaos.audit WHERE job_id = %s AND kind = 'item' AND (fence > max_attempts + 1 OR step = 'package')"
    wait_until(lambda: bool(world.query(tried, job)), "another attempt, or the end")


def its_worker_is_killed_after_many_answers(world: World) -> None:
    world.lm.latency = 0.25
    name = _name(world)
    job = world.submit(body(anchors() + odd(name, 64), num_threads=1))
    wait_until(lambda: world.calls_about(f"Odd {name} ") >= 40, "40 answers")
    faults.kill(world, world.wait_held(job, "bootstrap"))
    world.lm.latency = 0.0
    world.wait_over([job])


def _name(world: World) -> str:
    return f"switch-{len(world.accepted)}"


SCENARIOS: dict[str, Callable[[World], None]] = {
    "I1": its_worker_is_killed,
    "I2": it_runs_in_several_pieces,
    "I3": its_worker_stands_still_until_another_has_begun,
    "I4": a_job_runs,
    "I5": its_worker_is_killed,
    "I6": a_job_runs,
    "I7": a_piece_fails_more_often_than_it_may,
    "I8": a_job_runs,
    "paid": its_worker_is_killed_after_many_answers,
}


def _found(world: World, scenario: Callable[[World], None], seconds: float) -> set[Violation]:
    before = set(violations(world))
    scenario(world)
    return set(violations(world, seconds)) - before


@pytest.mark.parametrize("scenario", dict.fromkeys(SCENARIOS.values()))
def test_nothing_is_found_while_the_code_is_whole(world: World, scenario: Callable[[World], None]) -> None:
    assert _found(world, scenario, 60) == set()


@pytest.mark.parametrize("invariant", SCENARIOS)
def test_what_is_broken_on_purpose_is_found(world: World, invariant: str) -> None:
    with world.broken(invariant):
        found = _found(world, SCENARIOS[invariant], 10)
    assert invariant in {each.invariant for each in found}
