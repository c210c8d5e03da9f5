"""What a program may try with the LM that it is given: it costs its own example, with the reason, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.jobs.models import Job
from distill.rollouts import ProgramHost
from distill.settings import get_settings
from tests.integration.execute.house import House
from tests.integration.execute.test_hostile_programs import HOSTILE, attempts, rows, told
from tests.integration.execute.test_own_connections import everything_stored
from tests.support.bundles import PYTHON, bundle
from tests.support.canaries import leaks, spellings
from tests.support.installed import PACKAGE, PACKAGES, make_runtime
from tests.support.scripted_lm import ScriptedLM

SECRET = "canary-71d0c5e8a94b"
MOST, BUDGET = 30, 80
METRIC = {"type": "exact_match", "fields": ["answer"]}


@pytest.fixture
def house(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("STILLHOUSE_LIMITS__ROLLOUT_CALLS", str(MOST))
    get_settings.cache_clear()
    with (
        ScriptedLM(answer=lambda ask: {"answer": "yes"}, api_key=SECRET) as teacher,
        ScriptedLM(answer=lambda ask: {"answer": "no"}) as student,
        House(
            tmp_path, teacher, student, python=make_runtime(tmp_path / "runtime"), references=(PACKAGE,), teacher_key_env="OPENAI_API_KEY"
        ) as opened,
    ):
        yield opened
    get_settings.cache_clear()


def ran(house: House, ways: dict[int, str], code: Mapping[str, Any] = HOSTILE) -> Job:
    """The job once it is over, or stands still."""
    python = PYTHON if "bundle" in code else ""
    program = ProgramHost(house.ports.runners).describe(house.project_id, dict(code), python=python)["program"]
    settled: dict[str, Any] = {"num_threads": 4, "evaluate": {"roles": []}, "holdout": {"n": 0}, "budget": {"max_calls": BUDGET}}
    job_id = house.submit(rows(ways), program, metric=METRIC, **settled)
    return house.run(job_id, seconds=60, until=lambda job: job.status == "paused")


class TestCalls:
    @pytest.mark.record("rule-one-rollouts-calls")
    def test_a_thousand_over_the_budget_cost_one_example(self, house: House) -> None:
        job = ran(house, {4: "spends"})
        assert (job.status, job.error) == ("succeeded", None)
        assert told(job) == {4: ("too_many_calls", f"too_many_calls: one rollout may make {MOST} LM calls ([limits] rollout_calls)")}
        assert len(house.teacher.calls) == 23 + MOST
        assert {each for _, each in attempts(job)} == {1}

    @pytest.mark.record("rule-grants")
    def test_of_an_lm_that_is_not_on_its_list_cost_one_example(self, house: House) -> None:
        job = ran(house, {2: "reaches", 7: "dials"})
        assert job.status == "succeeded", job.error
        found = told(job)
        assert found.keys() == {2, 7}
        assert found[2] == ("unknown_slot", "unknown_slot: the program asked for an LM that it was not given (`model` is one of slot0)")
        assert found[7][0] == "failed"
        assert len(house.teacher.calls) == 22
        assert {call.body["model"] for call in house.teacher.calls} == {"big"}


@pytest.mark.record("rule-runners-words")
def test_one_that_speaks_in_the_place_of_its_runner_costs_one_example(house: House) -> None:
    """It tells the server of an example that nobody asked for."""
    job = ran(house, {4: "forges"})
    assert job.status == "succeeded", job.error
    assert told(job) == {4: ("failed", "ProcessDied: killed the program's process: it told of something that was not asked")}
    assert {each for _, each in attempts(job)} == {1}


@pytest.mark.record("rule-runners-environment")
def test_one_that_looks_around_finds_no_secret(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in the environment of its process or of others, nor in files that it may read: it would print, raise and ask for them."""
    plant = tmp_path / "planted.txt"
    plant.write_text(SECRET)
    job = ran(house, {3: f"tells fine {tmp_path}", 5: f"hands fine {tmp_path}"})
    assert job.status == "succeeded", job.error
    (reason, message) = told(job).pop(3)
    assert (reason, message[:26]) == ("failed", 'ValueError: {"environment"')
    texts = {"rows": everything_stored().encode(), "logs": caplog.text.encode(), "printed": "".join(capfd.readouterr()).encode()}
    asked = json.dumps([call.body for call in house.teacher.calls]).encode()
    assert b"environment" in texts["rows"]
    assert b"environment" in asked
    assert leaks([SECRET], {**texts, "asked": asked}) == {}


@pytest.mark.slow
def test_the_same_program_that_a_user_sends_can_do_no_more(house: House, tmp_path: Path) -> None:
    """It comes as a bundle, and is installed nowhere."""
    plant = tmp_path / "planted.txt"
    plant.write_text(SECRET)
    text = (PACKAGES / PACKAGE / "hostile.py").read_text()
    sent = house.send(bundle({"sent_desk.py": text}))
    ways = {2: "reaches", 4: "forges", 7: f"tells fine {tmp_path}", 9: "spends"}
    job = ran(house, ways, {"reference": "sent_desk:make_hostile", "bundle": sent})
    assert job.status == "succeeded", job.error
    found = told(job)
    assert {at: reason for at, (reason, _) in found.items()} == {2: "unknown_slot", 4: "failed", 7: "failed", 9: "too_many_calls"}
    assert found[4][1] == "ProcessDied: killed the program's process: it told of something that was not asked"
    assert found[7][1][:26] == 'ValueError: {"environment"'
    asked = json.dumps([call.body for call in house.teacher.calls]).encode()
    assert leaks([SECRET], {"rows": everything_stored().encode(), "asked": asked}) == {}


def test_a_secret_that_is_there_is_found_however_it_is_spelled() -> None:
    secret = "canary-1f2e3d4c5b6a"
    for form in spellings(secret):
        assert leaks([secret], {"text": b"xx" + form + b"yy"}) == {"text": [secret]}
    for before in range(3):
        assert leaks([secret], {"text": base64.b64encode(b"-" * before + secret.encode() + b"---")}) == {"text": [secret]}
    assert leaks([secret], {"text": b"canary-1f2e3d4c5b6"}) == {}
