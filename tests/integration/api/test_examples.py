"""Every example of openapi.json, sent to a live server: it succeeds as it says, with a reply of the schema that it says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any

import pytest
import schemathesis
from starlette.testclient import TestClient

from app import examples
from app.docs_page import example_bodies, example_path
from app.main import build_routes
from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.errors import JobFault
from distill.execute import context as contexts
from distill.execute import flow, validate
from distill.jobs import claims, repository, steps
from distill.jobs.claims import Claim, WorkerInfo
from distill.jobs.status import Step
from distill.settings import get_settings
from distill.storage import open_store
from tests.integration.api.finished import finish, load
from tests.integration.core.world import WORKER, execute, publish
from tests.support.bundles import PYTHON
from tests.support.texts_lm import TextsLM

Names = Mapping[str, str]
COMPILE = dict(examples.COMPILE)
FILES = {
    "support-train.csv": examples.CSV,
    "conversations.jsonl": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n',
}
EVERY_SCOPE = ("jobs:read", "jobs:write", "aliases:write", "models:use", "admin")
_numbers = count(1)


@cache
def described() -> dict[str, Any]:
    return build_routes().openapi()


@pytest.fixture
def lm_url() -> Iterator[str]:
    with TextsLM(answer=lambda ask: {"team": "billing"} if ask.outputs else "billing") as lm:
        yield lm.url


@pytest.fixture
def operator(bare: TestClient) -> TestClient:
    """A client with a key that may do everything."""
    with unit_of_work() as s:
        token = keys.create(s, projects.ensure(s, projects.OPERATORS).id, "examples", EVERY_SCOPE)[1]
    bare.headers["Authorization"] = f"Bearer {token}"
    return bare


# ------------------------------------------------------------------ objects that examples name


def made(api: TestClient, path: str, **body: Any) -> str:
    reply = api.post(path, **(body if "data" in body else {"json": body}))
    assert reply.is_success, reply.text
    found: str = reply.json()["id"]
    return found


def another(api: TestClient) -> dict[str, str]:
    """A finished job of its own, with its model and artifact."""
    model = f"{examples.MODEL}-{next(_numbers)}"
    finished = finish(api, model, COMPILE)
    load(finished)
    children = api.get(f"/v1/compile_jobs/{finished.job_id}/fine_tuning_jobs").json()["data"]
    return {
        examples.JOB: finished.job_id,
        examples.ARTIFACT: finished.artifact_id,
        examples.MODEL: model,
        examples.FINE_TUNING_JOB: children[0]["id"],
    }


def common(api: TestClient) -> dict[str, str]:
    """One object for each id of the examples. The endpoint is there when the alias moves, and so there is a delivery."""
    endpoint = made(api, "/v1/webhook_endpoints", url="https://hooks.example.com/a", events=["alias.moved"])
    found = another(api)
    api.put(f"/v1/aliases/{examples.ALIAS}", json={"artifact": found[examples.ARTIFACT]}).raise_for_status()
    (delivery,) = api.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"]
    return {
        **found,
        examples.PROGRAM: made(api, "/v1/programs", spec=examples.SPEC),
        examples.PYTHON: PYTHON,
        examples.BUNDLE: made(api, "/v1/bundles", **{**examples.BUNDLE_DOCUMENT, "python": PYTHON}),
        examples.METRIC: made(api, "/v1/metrics", spec=examples.METRIC_SPEC),
        examples.DATASET: made(api, "/v1/datasets", rows=examples.ROWS),
        examples.FILE: made(api, "/v1/files", files={"file": ("a.jsonl", FILES["conversations.jsonl"])}, data={"purpose": "fine-tune"}),
        examples.CONNECTION: made(api, "/v1/connections", name="ours", base_url="https://api.example.com/v1"),
        examples.KEY: made(api, "/v1/api_keys", label="examples"),
        examples.ENDPOINT: endpoint,
        examples.DELIVERY: delivery["id"],
        examples.BASE_MODEL: "house/tiny",
        examples.TEACHER_MODEL: "big/big-model",
        examples.EMBEDDING_MODEL: "big/big-model",
    }


def job(api: TestClient, **changes: Any) -> dict[str, str]:
    return {examples.JOB: made(api, "/v1/compile_jobs", **{**COMPILE, **changes})}


def claimed(job_id: str) -> Claim:
    with unit_of_work() as s:
        of = repository.by_id(s, job_id).project_id
        found = claims.claim(s, "rollouts", WorkerInfo(WORKER.name, WORKER.capabilities, project_id=of, job_id=job_id))
    assert found is not None
    return found


def failed(api: TestClient) -> dict[str, str]:
    found = job(api)
    with unit_of_work() as s:
        claims.fail(s, claimed(found[examples.JOB]), JobFault("broken", "It broke.", "system"))
    return found


def taught(api: TestClient) -> dict[str, str]:
    """A job whose bootstrap has succeeded."""
    found = job(api)
    one = steps.NewItem("teacher:0", {"start": 0, "stop": 1}, 1)
    publish(claimed(found[examples.JOB]), on_closed=lambda s, row, _: steps.open_step(s, row, Step.BOOTSTRAP, [one]))
    publish(claimed(found[examples.JOB]))
    return found


def of_a_client(api: TestClient) -> dict[str, str]:
    """A job of two examples that waits for its client."""
    found = job(api, trainset=examples.ROWS[:2], valset=examples.ROWS[2:], rollouts={"where": "client"})
    held, store = claimed(found[examples.JOB]), open_store(get_settings())
    with unit_of_work() as s:
        read = contexts.load(s, held.job_id)
    asked = validate.questions(store, read)
    prompts = [one["program_digest"] for one in (asked, *asked["teachers"])]
    reply = {"prompt_hash": dict.fromkeys(prompts, "v1:prompts"), "program_state": {name: {} for name in prompts}, "dspy_version": "3"}
    plan = validate.find_out(store, read, asked, reply).plan
    publish(held, on_closed=lambda s, row, _: flow.after_validate(s, row, plan, []))
    return found


def held(api: TestClient) -> dict[str, str]:
    """A work item of such a job, claimed."""
    found = of_a_client(api)
    item = api.post("/v1/work_items/claim", json={"client": "examples", "job": found[examples.JOB]}).json()["item"]
    assert (item["fence"], len(item["examples"])) == (1, 2)
    return {**found, examples.WORK_ITEM: item["id"]}


def run(api: TestClient) -> dict[str, str]:
    """One whose first example has its trace and score, as their own examples say."""
    found = held(api)
    for part in ("traces", "scores"):
        send(api, described(), f"/v1/compile_jobs/{{job_id}}/{part}", "post", {**found, examples.TEACHER_MODEL: "big/big-model"})
    return found


def traced(api: TestClient) -> dict[str, str]:
    found = of_a_client(api)
    names = {**found, examples.TEACHER_MODEL: "big/big-model"}
    send(api, described(), "/v1/compile_jobs/{job_id}/traces", "post", names)
    return found


def fine_tuning(api: TestClient) -> dict[str, str]:
    file = made(api, "/v1/files", files={"file": ("a.jsonl", FILES["conversations.jsonl"])}, data={"purpose": "fine-tune"})
    return {examples.FINE_TUNING_JOB: made(api, "/v1/fine_tuning/jobs", model="house/tiny", training_file=file)}


def with_rows(api: TestClient) -> dict[str, str]:
    found = another(api)
    record = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}
    digest = open_store(get_settings()).put(json.dumps(record).encode() + b"\n")
    execute(f"UPDATE fine_tune_jobs SET training_file = '{digest}' WHERE id = '{found[examples.FINE_TUNING_JOB]}'")
    return found


def signed_in(api: TestClient) -> dict[str, str]:
    """The client keeps the cookie."""
    api.post("/v1/session").raise_for_status()
    return {}


#: Operations whose objects are to stand in some way, or are used up; all others take those of `common`.
NEEDS: Mapping[str, Callable[[TestClient], dict[str, str]]] = {
    "start_compile_job": lambda api: job(api, auto_start=False),
    "pause_compile_job": job,
    "resume_compile_job": job,
    "cancel_compile_job": job,
    "retry_compile_job": failed,
    "refilter_compile_job": taught,
    "claim_work_item": of_a_client,
    "beat_work_item": held,
    "release_work_item": held,
    "publish_work_item": run,
    "send_traces": of_a_client,
    "send_scores": traced,
    "training_file_content": with_rows,
    "delete_compile_job": failed,
    "delete_artifact": another,
    "delete_model": another,
    "cancel_fine_tuning_job": fine_tuning,
    "get_session": signed_in,
    "end_session": signed_in,
    "pause_fine_tuning_job": fine_tuning,
    "resume_fine_tuning_job": fine_tuning,
}


# ------------------------------------------------------------------ sending


def named(text: str, names: Names) -> str:
    """With real ids in place of those of the documentation."""
    for shown in sorted(names, key=len, reverse=True):
        text = text.replace(shown, names[shown])
    return text


def content(kind: str | None, body: Any, names: Names) -> dict[str, Any]:
    """The arguments of a request with this body."""
    if kind is None:
        return {}
    if kind == "multipart/form-data":
        files = {name: (value[1:], FILES[value[1:]]) for name, value in body.items() if value.startswith("@")}
        return {"files": files, "data": {name: value for name, value in body.items() if name not in files}}
    text = body if isinstance(body, str) else json.dumps(body)
    return {"content": named(text, names), "headers": {"Content-Type": kind}}


def send(api: TestClient, document: dict[str, Any], path: str, verb: str, names: Names) -> list[Any]:
    """The replies to an operation's examples."""
    operation = document["paths"][path][verb]
    address = named(example_path(path, operation), names)
    bodies: list[tuple[str | None, Any]] = list(example_bodies(document, operation))
    assert bodies or "requestBody" not in operation, f"{verb} {path} has a body and no example of it"
    return [api.request(verb, address, **content(kind, body, names)) for kind, body in bodies or [(None, None)]]


def check(schema: Any, path: str, verb: str, reply: Any) -> None:
    declared = {status for status in described()["paths"][path][verb]["responses"] if status.startswith("2")}
    assert str(reply.status_code) in declared, f"{reply.status_code}: {reply.text}"
    schema[path][verb.upper()].validate_response(reply)


@pytest.mark.slow
def test_every_operation_does_what_its_example_says(operator: TestClient) -> None:
    document, schema = described(), schemathesis.openapi.from_dict(described())
    shared = common(operator)
    operations = [(path, verb) for path, verbs in document["paths"].items() for verb in verbs]
    faults = []
    # Maintenance last, since no job is taken meanwhile; before it, what deletes.
    for path, verb in sorted(operations, key=lambda operation: (operation[0] == "/v1/maintenance", operation[1] == "delete")):
        need = NEEDS.get(document["paths"][path][verb]["operationId"])
        try:
            names = {**shared, **(need(operator) if need else {})}
            for reply in send(operator, document, path, verb, names):
                check(schema, path, verb, reply)
        except Exception as error:
            faults.append(f"{verb} {path}: {error}")
    assert not faults, "\n\n".join(faults)


def test_an_operation_without_an_example_would_be_found(operator: TestClient) -> None:
    document = copy.deepcopy(described())
    del document["components"]["schemas"]["ProjectCreate"]["examples"]
    with pytest.raises(AssertionError, match="no example"):
        send(operator, document, "/v1/projects", "post", {})
    for parameter in document["paths"]["/v1/projects/{project}"]["get"]["parameters"]:
        parameter["schema"].pop("examples", None)
    with pytest.raises(KeyError):
        send(operator, document, "/v1/projects/{project}", "get", {})
