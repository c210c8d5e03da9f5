"""Aliases: one artifact each, a history, and a gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from distill.catalog import aliases, artifacts
from distill.catalog.aliases import Name
from distill.catalog.models import Artifact
from distill.catalog.promotion import Gate
from distill.db import Page, unit_of_work
from distill.errors import Conflict, Invalid, NotFound
from tests.integration.core.world import World

PROD = Name("router", "prod")


def artifact(world: World, name: str = "router", evaluation: Mapping[str, Any] | None = None) -> Artifact:
    job_id, manifest = world.submit(), json.dumps({"evaluation": evaluation})
    with unit_of_work() as s:
        words: dict[str, Any] = {"project_id": world.project_id, "job_id": job_id, "name": name, "manifest": manifest}
        return artifacts.create(s, digest="sha256:1", files={}, **words)


def move(world: World, name: Name, artifact_id: str, gate: Gate | None = None) -> str:
    with unit_of_work() as s:
        return aliases.move(s, world.project_id, name, artifact_id, None, gate).artifact_id


def measured(against: str, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    """An evaluation whose incumbent was `against`."""
    return {"incumbent": {"artifact": against}, "delta": {"against": "incumbent", "value": value, "low": low, "high": high}}


class TestMove:
    def test_makes_moves_and_remembers(self, world: World) -> None:
        first, second = artifact(world), artifact(world)
        for target in (first.id, second.id, second.id):
            assert move(world, PROD, target) == target
        with unit_of_work() as s:
            assert aliases.artifact(s, world.project_id, "router@prod").id == second.id
            moves = aliases.history(s, world.project_id, PROD, Page()).data
        assert [(one.previous_artifact_id, one.artifact_id) for one in moves] == [(first.id, second.id), (None, first.id)]

    def test_takes_another_alias_as_its_target(self, world: World) -> None:
        candidate = artifact(world)
        move(world, Name("router", "candidate"), candidate.id)
        assert move(world, PROD, "router@candidate") == candidate.id

    def test_another_programs_artifact_is_refused(self, world: World) -> None:
        other = artifact(world, "classifier")
        with pytest.raises(Invalid) as raised:
            move(world, PROD, other.id)
        assert raised.value.code == "other_program"

    def test_an_unknown_artifact_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            move(world, PROD, "art-nothing")

    @pytest.mark.parametrize("text", ["router", "router@", "@prod", "router@Prod", "a b@prod", "router@a@b", "../x@prod"])
    def test_what_is_no_alias_is_refused(self, text: str) -> None:
        with pytest.raises(Invalid):
            aliases.parse(text)


class TestRemove:
    def test_the_artifact_and_the_history_stay(self, world: World) -> None:
        first = artifact(world)
        move(world, PROD, first.id)
        with unit_of_work() as s:
            aliases.remove(s, world.project_id, PROD, None)
        with unit_of_work() as s:
            assert aliases.find(s, world.project_id, PROD) is None
            assert artifacts.get(s, world.project_id, first.id).id == first.id
            last = aliases.history(s, world.project_id, PROD, Page()).data[0]
        assert (last.previous_artifact_id, last.artifact_id) == (first.id, None)

    def test_what_never_was_is_not_found_with_the_nearest_name(self, world: World) -> None:
        move(world, PROD, artifact(world).id)
        for ask in (aliases.get, lambda s, p, n: aliases.history(s, p, n, Page()), lambda s, p, n: aliases.remove(s, p, n, None)):
            with pytest.raises(NotFound, match='did you mean "router@prod"'), unit_of_work() as s:
                ask(s, world.project_id, Name("router", "prd"))

    def test_an_artifact_that_an_alias_names_is_not_deleted(self, world: World) -> None:
        first = artifact(world)
        move(world, PROD, first.id)
        with pytest.raises(Conflict) as raised, unit_of_work() as s:
            artifacts.delete(s, world.project_id, first.id)
        assert raised.value.code == "artifact_in_use"


class TestGate:
    def test_with_nothing_to_beat_it_is_open(self, world: World) -> None:
        first = artifact(world)
        assert move(world, PROD, first.id, Gate("router@prod")) == first.id
        assert move(world, PROD, first.id, Gate("router@prod")) == first.id

    @pytest.mark.parametrize(
        ("interval", "min_delta", "code"),
        [
            ((0.1, 0.02, 0.18), 0.0, None),
            ((0.1, 0.02, 0.18), 0.05, "inconclusive"),
            ((0.0, -0.02, 0.02), 0.0, "inconclusive"),
            ((0.0, -0.02, 0.02), -0.03, None),
            ((-0.1, -0.18, -0.02), 0.0, "worse"),
            ((0.01, 0.005, 0.015), 0.05, "worse"),
            ((None, None, None), 0.0, "inconclusive"),
        ],
    )
    def test_the_whole_interval_decides(self, world: World, interval: tuple[Any, Any, Any], min_delta: float, code: str | None) -> None:
        first = artifact(world)
        move(world, PROD, first.id)
        second = artifact(world, evaluation=measured(first.id, *interval))
        if code is None:
            assert move(world, PROD, second.id, Gate("router@prod", min_delta)) == second.id
            return
        with pytest.raises(Conflict) as raised:
            move(world, PROD, second.id, Gate("router@prod", min_delta))
        assert raised.value.code == code
        with unit_of_work() as s:
            assert aliases.get(s, world.project_id, PROD).artifact_id == first.id

    def test_a_comparison_with_what_was_there_before_does_not_count(self, world: World) -> None:
        first, now = artifact(world), artifact(world)
        move(world, PROD, now.id)
        with_another = measured(first.id, 0.3, 0.2, 0.4)
        with_the_student = {"delta": {**with_another["delta"], "against": "baseline"}}
        for evaluation in (with_another, with_the_student, None):
            second = artifact(world, evaluation=evaluation)
            with pytest.raises(Conflict) as raised:
                move(world, PROD, second.id, Gate("router@prod"))
            assert raised.value.code == "not_compared"
