"""Programs and metrics of bundles over HTTP: described, tried, compiled, called, and gone with their bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import aliases, keys
from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.api.conftest import CONNECTIONS, Tokens, fault
from tests.integration.execute.house import House
from tests.support.bundles import DESK, bundle
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

TEAMS = ("billing", "technical", "account")
ROWS = [{"message": f"Message {i} for {TEAMS[i % 3]}", "team": TEAMS[i % 3]} for i in range(12)]
POLITE = "def polite(example, prediction, trace=None):\n    return 1.0 if prediction.answer.startswith('Bye') else 0.5\n"
RIGHT = {"type": "reference", "reference": "desk.scores:right"}


def knows(ask: Ask) -> Answer:
    return {"team": ask.inputs["message"].split()[-1]} if "team" in ask.outputs else {"answer": f"{ask.inputs['draft']}!"}


@contextmanager
def open_house(folder: Path) -> Iterator[tuple[ScriptedLM, House, TestClient]]:
    """A server with its workers, an LM, and a client that may do everything."""
    with ScriptedLM(answer=knows) as lm, House(folder, lm, lm) as house:
        (folder / "stillhouse.toml").write_text(CONNECTIONS.replace("LM_URL", lm.url), encoding="utf-8")
        get_settings.cache_clear()
        with unit_of_work() as s:
            token = keys.create(s, house.project_id, "test")[1]
        with TestClient(create_app(), raise_server_exceptions=False) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            yield lm, house, client


def sent(api: TestClient, document: dict[str, Any] | None = None) -> str:
    reply = api.post("/v1/bundles", json=document or bundle())
    assert reply.status_code == 201, reply.text
    made: str = reply.json()["id"]
    return made


def desk(bundle_id: str, **more: Any) -> dict[str, Any]:
    return {"reference": "desk.programs:Desk", "bundle": bundle_id, **more}


def right(bundle_id: str) -> dict[str, Any]:
    return {**RIGHT, "bundle": bundle_id}


def ok(reply: Any) -> dict[str, Any]:
    assert reply.is_success, reply.text
    read: dict[str, Any] = reply.json()
    return read


class TestDescribed:
    @pytest.mark.slow
    def test_program_and_metric_are_stored_by_what_their_bundle_says(self, api: TestClient) -> None:
        made = sent(api)
        digest = ok(api.get(f"/v1/bundles/{made}"))["digest"]
        program = ok(api.post("/v1/programs", json=desk(made, kwargs={"rounds": 2})))
        assert (program["predictors"], program["inputs"]) == (["route", "write"], ["message"])
        assert program["spec"]["reference"]["bundle"] == digest
        assert ok(api.post("/v1/programs", json=program["spec"]))["id"] == program["id"], "the spec of a stored program is that program"
        assert ok(api.post(f"/v1/programs/{program['id']}/render", json={"inputs": {"message": "Help"}}))["calls"]

        metric = ok(api.post("/v1/metrics", json={"spec": right(made)}))
        assert metric["spec"]["bundle"] == digest
        tried = ok(api.post(f"/v1/metrics/{metric['id']}/try", json={"examples": ROWS[:1], "predictions": [{"team": "account"}]}))
        assert tried["data"][0]["value"] == 0.5

        job = {"program": program["id"], "trainset": ROWS, "metric": metric["id"], "auto_start": False}
        inline = {**job, "program": desk(made, kwargs={"rounds": 2}), "metric": right(made)}
        by_id, by_bundle = (ok(api.post("/v1/compile_jobs", json=body)) for body in (job, inline))
        assert by_id["spec_digest"] == by_bundle["spec_digest"]
        assert by_id["metric"] == by_bundle["metric"]

        other = sent(
            api,
            bundle({"desk/scores.py": "def right(example, prediction, trace=None):\n    return 1.0 if prediction.team == 'x' else 0.0\n"}),
        )
        apart = ok(api.post("/v1/metrics", json={"spec": right(other)}))
        pair = {"examples": ROWS[:1], "predictions": [{"team": "x"}]}
        assert ok(api.post(f"/v1/metrics/{apart['id']}/try", json=pair))["data"][0]["value"] == 1.0, "each in a process of its own"
        clash = fault(api.post("/v1/compile_jobs/estimate", json={**job, "metric": right(other)}))
        assert (clash[0], "send one bundle for both" in clash[2]) == ("bundles_clash", True)

        broken = sent(api, bundle({"a.py": "raise ValueError('no licence')", "b.py": "import no_such_thing"}))
        for name, code, message in (
            ("a:x", "reference_failed", "ValueError: no licence"),
            ("b:x", "package_not_installed", "no_such_thing"),
        ):
            found = fault(api.post("/v1/programs", json={"reference": name, "bundle": broken}))
            assert (found[0], message in found[2]) == (code, True)


class TestRefused:
    def test_what_is_not_the_projects_or_is_gone(self, api: TestClient, tokens: Tokens) -> None:
        theirs = {"Authorization": f"Bearer {tokens.other}"}
        foreign = ok(api.post("/v1/bundles", json=bundle(), headers=theirs))
        gone = sent(api)
        digest = ok(api.get(f"/v1/bundles/{gone}"))["digest"]
        ok(api.delete(f"/v1/bundles/{gone}"))
        assert digest == foreign["digest"], "the other project has it still"
        spec: dict[str, Any] = {
            "predictors": [{"name": "self", "lm": "student", "signature": {"fields": [{"name": "a", "role": "output"}]}}]
        }
        spec = {**spec, "reference": {"target": "desk.programs:Desk", "inputs": [], "bundle": digest}}
        for name in (foreign["id"], gone, digest, "bundle-nothing"):
            assert fault(api.post("/v1/programs", json=desk(name)))[:2] == ("bundle_not_found", "bundle"), name
            assert fault(api.post("/v1/metrics", json={"spec": right(name)}))[:2] == ("bundle_not_found", "spec.bundle"), name
            body = {"program": desk(name), "trainset": ROWS, "metric": "exact_match"}
            assert fault(api.post("/v1/compile_jobs", json=body))[:2] == ("bundle_not_found", "program.bundle"), name
        assert fault(api.post("/v1/programs", json={"spec": spec}))[:2] == ("bundle_not_found", "spec.reference.bundle")

    def test_what_the_operator_does_not_take_any_more(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        made = sent(api, bundle(packages={"numpy": "2.0"}))
        monkeypatch.setattr(get_settings().bundles, "accept", False)
        assert fault(api.post("/v1/programs", json=desk(made)))[:2] == ("bundles_not_accepted", "bundle")

    def test_code_of_nobody(self, api: TestClient) -> None:
        code, _, message = fault(api.post("/v1/programs", json={"reference": "stillhouse_bundle:program"}))
        assert (code, "in no package that this server may import" in message) == ("reference_not_allowed", True)
        assert fault(api.post("/v1/programs", json={**desk(""), "bundle": ""}))[1] == "bundle"

    def test_all_of_it_without_a_sandbox(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        monkeypatch.setenv("STILLHOUSE_SANDBOX__RUNG", "none")
        api: TestClient = request.getfixturevalue("api")
        made = sent(api)
        for path, body in (
            ("/v1/programs", desk(made)),
            ("/v1/metrics", {"spec": right(made)}),
            ("/v1/compile_jobs", {"program": desk(made), "trainset": ROWS, "metric": "exact_match"}),
        ):
            code, _, message = fault(api.post(path, json=body))
            assert (code, "no sandbox that holds" in message) == ("sandbox_unavailable", True), path


@pytest.mark.slow
def test_compiled_in_the_sandbox_and_called_until_its_bundle_is_deleted(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(tmp_path / "blobs"))
    with open_house(tmp_path) as (lm, house, api):
        made = sent(api)
        body = {"program": desk(made, kwargs={"rounds": 2}), "trainset": ROWS, "valset": ROWS[:3], "metric": right(made)}
        asked = ok(api.post("/v1/compile_jobs/estimate", json=body))["roles"]
        assert asked
        waiting = ok(api.post("/v1/compile_jobs", json={**body, "auto_start": False}))["id"]
        created = ok(api.post("/v1/compile_jobs", json=body))
        code, _, message = fault(api.delete(f"/v1/bundles/{made}"), 409)
        assert (code, waiting in message) == ("bundle_in_use", True)

        job = house.succeed(created["id"])
        assert job.evaluation is not None
        assert (job.evaluation["metric"], job.evaluation["compiled"]["score"]) == ("desk.scores:right", 1.0)
        asked_before = len(lm.calls)
        house.succeed(ok(api.post("/v1/compile_jobs", json=body))["id"])
        assert len(lm.calls) == asked_before, "its traces are the project's"

        artifact = ok(api.get(f"/v1/compile_jobs/{job.id}/artifact"))["id"]
        call = {"inputs": {"message": "Help with billing"}}
        assert ok(api.post(f"/v1/artifacts/{artifact}/call", json=call))["outputs"] == {"team": "billing", "answer": "Hello.!!"}

        ok(api.post(f"/v1/compile_jobs/{waiting}/cancel"))
        ok(api.delete(f"/v1/bundles/{made}"))
        assert fault(api.post(f"/v1/artifacts/{artifact}/call", json=call))[0] == "bundle_not_found"
        by_id = {**body, "program": created["program"], "metric": "exact_match"}
        assert fault(api.post("/v1/compile_jobs", json=by_id))[:2] == ("bundle_not_found", "program")
        sent(api)
        assert ok(api.post(f"/v1/artifacts/{artifact}/call", json=call))["outputs"]["team"] == "billing", "the same code came back"


@pytest.mark.slow
def test_compared_with_what_was_compiled_from_an_older_text_of_the_same_modules(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(tmp_path / "blobs"))
    with open_house(tmp_path) as (_, house, api):
        metric = {"type": "reference", "reference": "marks:polite", "bundle": sent(api, bundle({"marks.py": POLITE}))}
        rows = {"trainset": ROWS, "valset": ROWS[:3], "program_name": "desk", "filter": {"min_score": 0.5}}
        older, newer = sent(api), sent(api, bundle({**DESK, "desk/hello.txt": "Bye."}))
        first = house.succeed(ok(api.post("/v1/compile_jobs", json={**rows, "program": desk(older), "metric": metric}))["id"])
        artifact = ok(api.get(f"/v1/compile_jobs/{first.id}/artifact"))["id"]
        with unit_of_work() as s:
            aliases.move(s, house.project_id, aliases.Name("desk", "prod"), artifact, None)

        against = {**rows, "program": desk(newer), "evaluate": {"roles": ["baseline", "compiled"], "incumbent": "desk@prod"}}
        asked = ok(api.post("/v1/compile_jobs/estimate", json={**against, "metric": metric}))["roles"]
        assert "incumbent" in [each["role"] for each in asked]
        job = house.succeed(ok(api.post("/v1/compile_jobs", json={**against, "metric": metric}))["id"])
        evaluation = job.evaluation or {}
        assert {role: evaluation[role]["score"] for role in ("incumbent", "compiled")} == {"incumbent": 0.5, "compiled": 1.0}
        assert (evaluation["incumbent"]["artifact"], evaluation["delta"]["against"]) == (artifact, "incumbent")
        own = ok(api.get(f"/v1/compile_jobs/{job.id}/artifact"))["id"]
        answers = [ok(api.post(f"/v1/artifacts/{each}/call", json={"inputs": {"message": "For billing"}})) for each in (artifact, own)]
        assert [each["outputs"]["answer"] for each in answers] == ["Hello.!", "Bye.!"]

        refused = house.run(ok(api.post("/v1/compile_jobs", json={**against, "metric": right(newer)}))["id"])
        assert (refused.status, (refused.error or {})["code"]) == ("failed", "bundles_clash"), "the metric's text beside the incumbent's"
