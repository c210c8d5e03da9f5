"""Programs and metrics that are code, over HTTP: stored, shown, used in a job, refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import keys
from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.api.conftest import CONNECTIONS, Tokens, fault
from tests.integration.execute.house import House
from tests.support.installed import PACKAGE, make_runtime
from tests.support.scripted_lm import Answer, Ask, Says, ScriptedLM

DESK = {"reference": f"{PACKAGE}.programs:make_desk", "kwargs": {"rounds": 3}}
ROWS = [{"message": f"Message {i}", "team": "billing"} for i in range(4)]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def api(tokens: Tokens, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An API whose runtime has the tests' package installed and allowed."""
    monkeypatch.setenv("STILLHOUSE_REFERENCES", f"acme, {PACKAGE}")
    with (tmp_path / "stillhouse.toml").open("a") as settings:
        settings.write(f'\n[runtimes.default]\npython = "{runtime}"\n')
    get_settings.cache_clear()
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {tokens.all}"
        yield client


@contextmanager
def calling(house: House, lm: ScriptedLM, runtime: str, folder: Path) -> Iterator[TestClient]:
    """An API beside the house, with a key that may do everything."""
    settings = f'{CONNECTIONS.replace("LM_URL", lm.url)}\n[runtimes.default]\npython = "{runtime}"\n'
    (folder / "stillhouse.toml").write_text(settings, encoding="utf-8")
    get_settings.cache_clear()
    with unit_of_work() as s:
        token = keys.create(s, house.project_id, "test")[1]
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@contextmanager
def installed(answer: Callable[[Ask], Answer], runtime: str, folder: Path) -> Iterator[tuple[ScriptedLM, House, TestClient]]:
    """A server on which the package is installed and allowed: its LM, its workers and its API."""
    with (
        ScriptedLM(answer=answer) as lm,
        House(folder, lm, lm, python=runtime, references=(PACKAGE,)) as house,
        calling(house, lm, runtime, folder) as api,
    ):
        yield lm, house, api


OPEN_TRANSACTIONS = text("""
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
""")


def open_transactions() -> int:
    with unit_of_work() as s:
        return int(s.execute(OPEN_TRANSACTIONS).scalar_one())


def knows(ask: Ask) -> Answer:
    if "team" in ask.outputs:
        return {"team": "technical" if "crash" in ask.inputs["message"] else "billing"}
    return {"answer": f"{ask.model} had written {ask.inputs['draft']!r}"}


def calls_the_tool(ask: Ask) -> Answer:
    function = {"name": "on_duty", "arguments": json.dumps({"team": "billing"})}
    return Says({"content": None, "tool_calls": [{"id": f"x{ask.n}", "type": "function", "function": function}]})


SWITCHBOARD: dict[str, Any] = {
    "program": {"reference": f"{PACKAGE}.programs:Switchboard"},
    "trainset": ROWS,
    "metric": {"type": "reference", "reference": f"{PACKAGE}.metrics:right_desk"},
    "prompt_adapter": {"type": "chat", "native_tools": True},
    "lms": {"student": {"native": ["tools"]}},
    "teacher": {"lms": {"student": {"connection": "house", "native": ["tools"]}}},
}


class TestPrograms:
    def test_is_described_stored_once_and_previewed(self, api: TestClient) -> None:
        reply = api.post("/v1/programs", json={**DESK, "name": "desk", "lms": {"classify": "router"}})
        assert reply.status_code == 201, reply.json()
        made = reply.json()
        assert made["predictors"] == ["classify", "writers['first']", "writers['again']"]
        assert (made["lms"], made["inputs"], made["outputs"]) == (["router", "student"], ["message", "urgent"], [])
        assert made["spec"]["reference"]["target"] == DESK["reference"]
        again = api.post("/v1/programs", json={**DESK, "lms": {"classify": "router"}}).json()
        assert again["id"] == made["id"]

        preview = api.post(f"/v1/programs/{made['id']}/render", json={"inputs": {"message": "Help me"}}).json()
        assert [call["predictor"] for call in preview["calls"]] == made["predictors"]
        assert preview["note"].startswith("This program is code")
        assert fault(api.post(f"/v1/programs/{made['id']}/render", json={"inputs": {}}))[0] == "invalid_inputs"

        whole = api.post("/v1/programs", json=made["spec"]).json()
        assert whole["id"] == made["id"], "the spec of a stored program is the same program"

    def test_is_refused_before_anything_is_imported(self, api: TestClient) -> None:
        code, param, message = fault(api.post("/v1/programs", json={"reference": "os:system", "kwargs": {"command": "true"}}))
        assert (code, param) == ("reference_not_allowed", "reference")
        assert message == (
            f"reference: os:system is in no package that this server may import (allowed are acme, {PACKAGE}; "
            "the operator sets STILLHOUSE_REFERENCES)"
        )
        spec = api.post("/v1/programs", json=DESK).json()["spec"]
        spec["reference"]["target"] = "os:system"
        assert fault(api.post("/v1/programs", json={"spec": spec}))[:2] == ("reference_not_allowed", "spec.reference.target")

    def test_what_the_code_raises_is_said(self, api: TestClient) -> None:
        found = fault(api.post("/v1/programs", json={**DESK, "kwargs": {"round": 3}}))
        assert found[:2] == ("reference_failed", "reference")
        assert found[2].endswith("raised TypeError: make_desk() got an unexpected keyword argument 'round'")

    def test_no_transaction_is_open_while_a_runner_describes_it(self, api: TestClient, runtime: str) -> None:
        pipe = Path(runtime).parent / "pipe"  # a runner sees the folders of its interpreter alone
        os.mkfifo(pipe)
        program = {"reference": f"{PACKAGE}.programs:make_when_told", "kwargs": {"pipe": str(pipe)}}
        metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:right_team"}
        bodies = {"/v1/programs": program, "/v1/compile_jobs": {"program": program, "trainset": ROWS, "metric": metric}}
        for path, body in bodies.items():
            with ThreadPoolExecutor(1) as requests:
                reply = requests.submit(api.post, path, json=body, headers={"Idempotency-Key": "one"})
                with pipe.open("w"):  # opens when the program's factory reads it
                    found = open_transactions()
                made = reply.result()
            assert made.status_code == 201, made.json()
            assert found == 0, path
            again = api.post(path, json=body, headers={"Idempotency-Key": "one"})
            assert again.headers["idempotent-replayed"] == "true", "what is described again would wait for the pipe"
            assert again.json() == made.json()

    @pytest.mark.parametrize("body", [{"name": "nothing"}, {**DESK, "spec": {"predictors": []}}, {"kwargs": {}, "predictors": []}])
    def test_either_a_spec_or_a_reference(self, api: TestClient, body: dict[str, Any]) -> None:
        assert all(fault(api.post("/v1/programs", json=body))[::2])


class TestWithoutASandbox:
    @pytest.fixture
    def open_api(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> TestClient:
        monkeypatch.setenv("STILLHOUSE_SANDBOX__RUNG", "none")
        made: TestClient = request.getfixturevalue("api")
        return made

    def test_code_is_refused_and_specs_still_run(self, open_api: TestClient) -> None:
        for path, body in (("/v1/programs", DESK), ("/v1/compile_jobs", {"program": DESK, "trainset": ROWS, "metric": "exact_match"})):
            code, _, message = fault(open_api.post(path, json=body))
            assert code == "sandbox_unavailable"
            assert 'its operator may set [sandbox] rung to "auto"' in message
        signature = {"instructions": "Answer.", "fields": [{"name": "q", "role": "input"}, {"name": "a", "role": "output"}]}
        made = open_api.post("/v1/programs", json={"predictors": [{"name": "self", "lm": "student", "signature": signature}]}).json()
        assert open_api.post(f"/v1/programs/{made['id']}/render", json={"inputs": {"q": "Why?"}}).status_code == 200


class TestJobs:
    def test_program_teacher_and_metric_by_reference(self, api: TestClient) -> None:
        metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:right_team", "kwargs": {"ignore": "account"}}
        body = {"program": DESK, "teacher": {"program": {**DESK, "kwargs": {}}}, "trainset": ROWS, "metric": metric}
        reply = api.post("/v1/compile_jobs", json=body)
        assert reply.status_code == 201, reply.json()
        job = reply.json()
        assert job["program"] != job["teacher"][0]["program"]
        assert list(job["metric"]["source"]) == [PACKAGE, f"{PACKAGE}.metrics", f"{PACKAGE}.teams"]
        assert api.get(f"/v1/programs/{job['program']}").json()["spec"]["reference"]["kwargs"] == {"rounds": 3}

    def test_rows_are_checked_against_the_parameters(self, api: TestClient) -> None:
        rows = [{"message": "Help", "team": "billing"}, {"message": 7, "urgent": "very"}]
        found = fault(api.post("/v1/compile_jobs", json={"program": DESK, "trainset": rows}))
        assert found[:2] == ("invalid_rows", "trainset[1].message")

    def test_metric_in_no_allowed_package(self, api: TestClient) -> None:
        metric = {"type": "reference", "reference": "subprocess:run"}
        found = fault(api.post("/v1/compile_jobs", json={"program": DESK, "trainset": ROWS, "metric": metric}))
        assert found[:2] == ("reference_not_allowed", "metric.reference")

    def test_misspelt_part_of_an_inline_reference(self, api: TestClient) -> None:
        found = fault(api.post("/v1/compile_jobs", json={"program": {**DESK, "kwarg": {}}, "trainset": ROWS}))
        assert found[1] == "program.kwarg"
        assert "did you mean" in found[2]


class TestMetrics:
    def store(self, api: TestClient, name: str, **kwargs: Any) -> Any:
        spec = {"type": "reference", "reference": f"{PACKAGE}.metrics:{name}", "kwargs": kwargs}
        return api.post("/v1/metrics", json={"spec": spec, "name": name.replace("_", "-")})

    def test_a_job_takes_it_by_id_as_it_takes_its_spec(self, api: TestClient) -> None:
        reply = self.store(api, "right_team", ignore="account")
        assert reply.status_code == 201, reply.json()
        metric = reply.json()
        assert "source" not in metric["spec"], "every job looks at the code anew"
        bodies = ({"program": DESK, "trainset": ROWS, "metric": given} for given in (metric["id"], metric["spec"]))
        by_id, inline = (api.post("/v1/compile_jobs", json=body).json() for body in bodies)
        assert by_id["metric"] == inline["metric"]
        assert list(by_id["metric"]["source"]) == [PACKAGE, f"{PACKAGE}.metrics", f"{PACKAGE}.teams"]
        assert by_id["spec_digest"] == inline["spec_digest"]

    def test_it_is_tried_without_a_program(self, api: TestClient) -> None:
        def tried(name: str, prediction: dict[str, Any], **kwargs: Any) -> tuple[Any, ...]:
            metric = self.store(api, name, **kwargs).json()["id"]
            reply = api.post(f"/v1/metrics/{metric}/try", json={"examples": ROWS[:1], "predictions": [prediction]})
            assert reply.status_code == 200, reply.json()
            (pair,) = reply.json()["data"]
            return pair["value"], pair["status"], pair["error"]

        assert tried("right_desk", {"desks": ["billing desk"]}) == (1.0, "ok", None)
        assert tried("right_desk", {"desks": []}) == (0.0, "ok", None)
        assert tried("at_most", {}, calls=0) == (1.0, "ok", None), "the trace is empty"
        assert tried("right_team", {}) == (None, "failed", "AttributeError: 'Prediction' object has no attribute 'team'")

    def test_one_that_ends_its_process_is_said_to(self, api: TestClient) -> None:
        spec = {"type": "reference", "reference": f"{PACKAGE}.hostile:hostile_metric"}
        metric = api.post("/v1/metrics", json={"spec": spec}).json()["id"]
        row = {"message": "it exits"}
        found = fault(api.post(f"/v1/metrics/{metric}/try", json={"examples": [row], "predictions": [{"team": "billing"}]}))
        assert (found[0], found[2]) == ("metric_died", "The metric took its process down: the runner ended with exit code 3.")

    def test_what_is_no_metric_is_not_stored(self, api: TestClient) -> None:
        code, param, message = fault(self.store(api, "nonsense"))
        assert (code, param) == ("reference_failed", "spec.reference")
        assert "is no function of (example, prediction, trace)" in message
        refused = fault(api.post("/v1/metrics", json={"spec": {"type": "reference", "reference": "subprocess:run"}}))
        assert refused[:2] == ("reference_not_allowed", "spec.reference")
        assert api.get("/v1/metrics").json()["data"] == []


class TestCall:
    @pytest.mark.slow
    def test_of_the_compiled_program_runs_its_branches_on_its_models(
        self, database: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_REFERENCES", PACKAGE)
        monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(tmp_path / "blobs"))
        with installed(knows, runtime, tmp_path) as (lm, house, api):
            metric = {"type": "reference", "reference": f"{PACKAGE}.metrics:right_team"}
            made = api.post("/v1/compile_jobs", json={"program": DESK, "trainset": ROWS, "metric": metric, "multitask": False})
            job = house.run(made.json()["id"])
            assert job.status == "succeeded", job.error
            artifact = api.get(f"/v1/compile_jobs/{job.id}/artifact").json()
            asked = len(lm.calls)
            reply = api.post(f"/v1/artifacts/{artifact['id']}/call", json={"inputs": {"message": "I was charged twice", "urgent": True}})
            assert reply.status_code == 200, reply.json()
            models = artifact["models"]
            writer, again = models["writers['first']"], models["writers['again']"]
            first = f"{writer} had written ''"
            second = f"{again} had written {first!r}"
            assert reply.json()["outputs"] == {"team": "billing", "answer": f"{again} had written {second!r}", "urgent": True}
            assert [call.body["model"] for call in lm.calls[asked:]] == [models["classify"], writer, again, again]

            short = api.post(f"/v1/artifacts/{artifact['id']}/call", json={"inputs": {"message": "It crashes"}}).json()["outputs"]
            assert short == {"team": "technical", "answer": first, "urgent": False}
            path = f"/v1/artifacts/{artifact['id']}/call"
            assert fault(api.post(path, json={"inputs": {"message": "Help", "urgent": "very"}}))[:2] == ("invalid_inputs", "inputs.urgent")

    @pytest.mark.slow
    def test_of_a_program_whose_lm_calls_tools_natively(
        self, database: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_REFERENCES", PACKAGE)
        monkeypatch.setenv("STILLHOUSE_BLOBS__ROOT", str(tmp_path / "blobs"))
        with installed(calls_the_tool, runtime, tmp_path) as (lm, house, api):
            job = house.run(api.post("/v1/compile_jobs", json=SWITCHBOARD).json()["id"])
            assert job.status == "succeeded", job.error
            asked = [call.body for call in lm.calls]
            artifact = api.get(f"/v1/compile_jobs/{job.id}/artifact").json()
            reply = api.post(f"/v1/artifacts/{artifact['id']}/call", json={"inputs": {"message": "I was charged twice"}})
            assert (reply.status_code, reply.json().get("outputs")) == (200, {"desks": ["billing desk"]})
            (called,) = [call.body for call in lm.calls[len(asked) :]]
            assert called["model"] == artifact["models"]["ask"]
            (file,) = api.get(f"/v1/compile_jobs/{job.id}/training_files").json()["data"]
            for line in api.get(file["content"]).text.splitlines():
                record = json.loads(line)
                taught = next(body for body in asked if body["messages"] == record["prompt"])
                assert json.dumps(taught["tools"]) == json.dumps(record["tools"]) == json.dumps(called["tools"]), "in one order of keys"
            records = [json.loads(line) for line in api.get(f"{file['content']}?format=openai").text.splitlines()]
            function = {"name": "on_duty", "arguments": '{"team": "billing"}'}
            call = {"id": "call_0", "type": "function", "function": function}
            assert [record["messages"][-1] for record in records] == [{"role": "assistant", "content": "", "tool_calls": [call]}] * len(
                ROWS
            )
