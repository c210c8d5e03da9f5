"""Secrets are planted wherever a server has some; then one job runs with everything that there is, and all that it left is searched.

Its program looks for them too: it prints, raises and asks for what it finds. Real processes throughout; a tiny model is trained.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from stack.network import LOOPBACK
from stack.supervisor import Stack
from tests.integration.api.bundled import BUNDLE
from tests.integration.api.every_route import filled, operations
from tests.support.canaries import leaks
from tests.support.installed import PACKAGE, make_runtime
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM
from tests.support.webhook_receiver import Receiver, receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PLANTED = {
    "environment": "canary-e1a7c30b95d2",
    "an operator's key": "canary-k4f0d9b6a813",
    "settings": "canary-s82b5e07f4c1",
    "home": "canary-h6c913fa0d75",
    "blobs": "canary-b0d47e82a6f9",
    "a project's key": "canary-p5a3f81c7e20",
}
ROWS = ["fine fine {n}", "fine fine {n}", "tells fine {places} {n}", "hands fine {places} {n}", "fine echoes {n}", "fine fine {n}"]


@dataclass
class Ran:
    """A server on which a job has run, the ids of one object of each noun, and its webhook."""

    server: Stack
    http: httpx.Client
    ids: dict[str, str]
    hook: Receiver
    job: dict[str, Any]
    asked: ScriptedLM


def answer(ask: Ask) -> Answer:
    """An LM host that repeats its key in an error, as some do."""
    return Fail(400, message="Incorrect API key: " + PLANTED["an operator's key"]) if "echoes" in ask.text else {"answer": "yes"}


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiving() as own:
        yield own


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, hook: Receiver) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("canaries")
    home = folder / "home"
    config = folder / "stillhouse.toml"
    with ScriptedLM(answer=answer, api_key=PLANTED["an operator's key"]) as teacher, pytest.MonkeyPatch.context() as patch:
        config.write_text(
            f'# {PLANTED["settings"]}\n[connections.teacher]\nbase_url = "{teacher.url}"\nmodels = ["big"]\n'
            'default_teacher = true\napi_key_env = "TEACHER_API_KEY"\n'
        )
        for name, value in {
            "STILLHOUSE_MODELS": str(tiny_model.parent),
            "OMP_NUM_THREADS": "1",
            "STILLHOUSE_CONFIG": str(config),
            "TEACHER_API_KEY": PLANTED["an operator's key"],
            "AWS_SECRET_ACCESS_KEY": PLANTED["environment"],
            "STILLHOUSE_REFERENCES": PACKAGE,
            "STILLHOUSE_RUNTIMES__DEFAULT__PYTHON": make_runtime(folder / "runtime"),
            "STILLHOUSE_EGRESS__HOSTS": json.dumps([LOOPBACK]),
        }.items():
            patch.setenv(name, value)
        with Stack(home, fast=True, base_model=f"local/{tiny_model.name}") as server:
            (home / "planted.txt").write_text(PLANTED["home"])
            (home / "blobs").mkdir(exist_ok=True)
            (home / "blobs" / "planted").write_text(PLANTED["blobs"])
            headers = {"Authorization": f"Bearer {server.api_key}"}
            with httpx.Client(base_url=server.base_url, headers=headers, timeout=60) as http:
                yield run(server, http, hook, f"{home} {config} /root /proc/1", teacher)


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    reply = http.post(path, **(body if "data" in body else {"json": body}))
    assert reply.is_success, reply.text
    found: dict[str, Any] = reply.json()
    return found


def run(server: Stack, http: httpx.Client, hook: Receiver, places: str, teacher: ScriptedLM) -> Ran:
    endpoint = post(http, "/v1/webhook_endpoints", url=hook.url, events=["compile_job.succeeded", "compile_job.failed", "alias.moved"])
    own = {"name": "ours", "base_url": "https://api.example.com/v1", "api_key": PLANTED["a project's key"]}
    connection = post(http, "/v1/connections", **own)
    examples = [{"message": ROWS[n % len(ROWS)].format(n=n, places=places), "answer": "yes"} for n in range(12)]
    made = post(
        http,
        "/v1/compile_jobs",
        program={"reference": f"{PACKAGE}.hostile:make_hostile"},
        program_name="support",
        trainset=examples,
        metric={"type": "exact_match", "fields": ["answer"]},
        holdout={"n": 0},
        evaluate={"roles": []},
        lms={"student": {"temperature": 0, "max_tokens": 40, "train_options": {"n_epochs": 1, "lora_r": 8}}},
        num_threads=4,
    )
    job = wait_for(http, made["id"])
    assert job["status"] == "succeeded", job["error"]
    artifact = job["artifact"]["id"]
    assert http.put("/v1/aliases/support@prod", json={"artifact": artifact}).is_success
    deliveries = http.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries").json()["data"]
    file = post(http, "/v1/files", files={"file": ("a.jsonl", b'{"messages": []}\n')}, data={"purpose": "fine-tune"})
    child = job["fine_tuning_jobs"][0]
    ids = {
        "endpoint_id": endpoint["id"],
        "delivery_id": deliveries[0]["id"],
        "/v1/compile_jobs/{job_id}": job["id"],
        "/v1/fine_tuning/jobs/{job_id}": child["id"],
        "fine_tuning_job": child["id"],
        "program_id": job["program"],
        "dataset_id": job["trainset"],
        "artifact_id": artifact,
        "path": "manifest.json",
        "name": "support@prod",
        "model_id": child["fine_tuned_model"],
        "file_id": file["id"],
        "connection_id": connection["id"],
        "metric_id": post(http, "/v1/metrics", spec={"type": "exact_match"})["id"],
        "bundle_id": post(http, "/v1/bundles", **BUNDLE)["id"],
        "key_id": http.get("/v1/me").json()["key_id"],
        "project": "default",
    }
    return Ran(server, http, ids, hook, job, teacher)


def wait_for(http: httpx.Client, job_id: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = http.get(f"/v1/compile_jobs/{job_id}", params={"wait": 30}).json()
        if job["status"] in {"succeeded", "failed", "cancelled", "paused"}:
            return job


def replies(ran: Ran) -> Iterator[tuple[str, bytes]]:
    """Of every route that is read, and of the archive of the artifact what is in it."""
    for verb, path, _ in operations():
        if verb != "GET":
            continue
        reply = ran.http.get(filled(path, ran.ids), params={"lm": "openai/gpt-9"} if path.endswith("/resolve") else None)
        yield f"GET {path} {reply.status_code}", reply.content
        if path.endswith("/artifacts/{artifact_id}/content"):
            with tarfile.open(fileobj=io.BytesIO(reply.content)) as archive:
                for member in archive.getmembers():
                    held = archive.extractfile(member)
                    yield f"artifact {member.name}", held.read() if held else b""


def everything(ran: Ran) -> dict[str, bytes]:
    """Replies, log lines of every process, rows, blobs, and what was sent to webhook and LM host."""
    home = ran.server.home
    texts = dict(replies(ran))
    texts |= {f"log {path.name}": path.read_bytes() for path in (home / "logs").iterdir()}
    texts |= {f"blob {path.name}": path.read_bytes() for path in (home / "blobs").rglob("*") if path.is_file() and path.name != "planted"}
    texts |= {f"webhook {n}": body.encode() for n, (_, body) in enumerate(ran.hook.got)}
    texts |= {f"asked {n}": json.dumps(call.body).encode() for n, call in enumerate(ran.asked.calls)}
    return texts | dict(rows(ran))


def rows(ran: Ran) -> Iterator[tuple[str, bytes]]:
    state = json.loads((ran.server.home / "state.json").read_text())
    with psycopg.connect(state["environment"]["DATABASE_URL"].replace("+psycopg", "")) as connection:
        for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            found = connection.execute(f'SELECT t::text FROM "{table}" t').fetchall()
            yield f"table {table}", "\n".join(line for (line,) in found).encode()


def secrets(ran: Ran) -> Mapping[str, str]:
    return {**PLANTED, "an API key": ran.server.api_key.split("_", 2)[2]}


def test_the_job_did_what_leaks_elsewhere(ran: Ran) -> None:
    """Or the search below would find nothing since nothing was there."""
    texts = everything(ran)
    read = [where for where in texts if where.startswith("GET ")]
    assert len(read) > 60
    absent = {"GET /v1/session 404", "GET /v1/connections/resolve 404"}  # a browser's, and an LM that no connection stands for
    assert {where for where in read if not where.endswith(" 200")} == absent
    rejected = texts["GET /v1/compile_jobs/{job_id}/rejections 200"].decode()
    assert 'ValueError: {\\"environment\\"' in rejected
    assert "Incorrect API key: [redacted]" in rejected
    assert any(b"environment" in text for where, text in texts.items() if where.startswith("asked"))
    assert b"environment" in texts["GET /v1/compile_jobs/{job_id}/traces 200"]
    assert texts["GET /v1/compile_jobs/{job_id}/training_files/{fine_tuning_job}/content 200"].count(b"\n") >= 6
    assert any(where.startswith("artifact ") for where in texts)
    assert ran.hook.got
    assert {"log api", "log dispatcher", "log worker-rollouts"} <= {where.removesuffix(".log") for where in texts}


def test_no_secret_is_anywhere(ran: Ran) -> None:
    assert leaks(secrets(ran).values(), everything(ran)) == {}


def test_one_that_is_put_there_is_found(ran: Ran) -> None:
    planted = PLANTED["home"]
    assert ran.http.patch(f"/v1/compile_jobs/{ran.job['id']}", json={"metadata": {"note": planted.encode().hex()}}).is_success
    found = leaks([planted], everything(ran))
    assert {"GET /v1/compile_jobs/{job_id} 200", "GET /v1/compile_jobs 200", "table jobs"} <= set(found)
