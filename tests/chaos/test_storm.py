"""A random run does what it says: a fault that cannot be made is a violation, not a quieter run."""

import pytest

from tests.chaos import dice
from tests.chaos.invariants import violations
from tests.chaos.storm import Storm
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _broken(_world: World) -> None:
    raise LookupError("nothing to strike")


def test_a_fault_that_cannot_be_made_fails_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dice, "fault", lambda _seed, _number: dice.Fault("broken", _broken))
    Storm(world, seed=1, runs=2).rage()
    found = violations(world)
    world.refused.clear()
    assert found
    assert {each.what.partition(": ")[2] for each in found} == {"LookupError('nothing to strike')"}


def test_a_fault_that_finds_nothing_is_not_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dice.FAULTS, "kill -9 of a trainer", (10**9, dice.FAULTS["kill -9 of a trainer"][1]))
    storm = Storm(world, seed=1, runs=2)
    storm.rage()
    assert storm.struck.total() == 0
