"""How long an answer of the models that a job trains may be where its user says nothing."""

import json

import pytest

from distill.catalog import artifacts
from distill.db import unit_of_work
from distill.jobs.models import Job
from distill.pipeline import roles
from distill.pipeline.roles import UNTRAINED_TOKENS
from tests.integration.execute.house import House, knows, rows


def bounds(house: House) -> dict[str, set[int | None]]:
    """What each model was asked with."""
    found: dict[str, set[int | None]] = {}
    for call in [*house.teacher.calls, *house.student.calls]:
        found.setdefault(call.body["model"], set()).add(call.body.get("max_tokens"))
    return found


def program_state(house: House, job: Job) -> dict[str, dict[str, dict[str, object]]]:
    with unit_of_work() as s:
        artifact = artifacts.of_job(s, job.id)
        assert artifact is not None
        state: dict[str, dict[str, dict[str, object]]] = json.loads(house.store.read(artifact.files["program.json"]["digest"]))
    return state


class TestDefaults:
    def test_a_tuned_model_may_say_somewhat_more_than_its_longest_row(self, house: House) -> None:
        job = house.compile(rows(12), valset=rows(3), multitask=False)
        assert job.status == "succeeded", job.error
        asked = bounds(house)
        assert asked.pop("big") == {None}, "reasoning models of providers refuse `max_tokens`"
        assert asked.pop("tiny") == {UNTRAINED_TOKENS}
        # The pretended trainer counts words: those of completions are 11 for `classify`, 14 for `reply`, and at least 64 more are allowed.
        state = program_state(house, job)
        tuned = {state[name]["lm"]["model"]: state[name]["lm"]["max_tokens"] for name in ("classify", "reply")}
        assert {f"tune/{model}": most for model, (most,) in asked.items()} == tuned
        assert [state[name]["lm"]["max_tokens"] for name in ("classify", "reply")] == [75, 78]

    def test_stored_traces_are_found_whatever_the_bound(self, house: House) -> None:
        assert house.compile(rows(6), valset=rows(3)).status == "succeeded"
        asked = len(house.student.calls)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(roles, "UNTRAINED_TOKENS", 7)
            patched.setattr(roles, "_LEAST_MARGIN", 7)
            assert house.compile(rows(6), valset=rows(3)).status == "succeeded"
        assert len(house.student.calls) == asked

    def test_what_the_user_says_holds(self, house: House) -> None:
        job = house.compile(rows(6), valset=rows(3), lms={"student": {"max_tokens": 5}})
        assert job.status == "succeeded", job.error
        asked = bounds(house)
        assert asked.pop("big") == {None}
        assert set().union(*asked.values()) == {5}
        assert program_state(house, job)["classify"]["lm"]["max_tokens"] == 5

    def test_a_student_that_teaches_itself_is_bounded(self, house: House) -> None:
        house.student.answer = knows
        job = house.compile(rows(6), teacher=({"lms": {"student": {"connection": "house"}}},))
        assert job.status == "succeeded", job.error
        assert bounds(house)["tiny"] == {UNTRAINED_TOKENS}
