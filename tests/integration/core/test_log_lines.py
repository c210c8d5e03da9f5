"""With `log_format = "json"` each line of each process is a JSON object; it names request, key, project and work, and holds no key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.catalog import keys, projects
from distill.db import unit_of_work
from stack.network import answers, free_port
from stack.plan import api_command, dispatcher_command, worker_command
from tests.integration.core.test_dispatch import assert_ends_as
from tests.integration.core.world import World
from tests.support.server_process import wait_until

pytestmark = pytest.mark.usefixtures("redis_url")
ROOT = Path(__file__).parents[3]
JSON = {"STILLHOUSE_SERVER__LOG_FORMAT": "json"}
LEAKED = "sh_0123456789ab_Sdk3jfKsl39fjsLfk39sjfKs0_x"


@contextmanager
def running(command: tuple[str, ...], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to a file; it is told to stop at the end of the block."""
    with output.open("wb") as file:
        child = subprocess.Popen(command, env={**os.environ, **JSON}, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        yield child
        child.send_signal(signal.SIGTERM)
        child.wait(30)
    finally:
        child.kill()
        child.wait()


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_lines_of_the_api(database: str, tmp_path: Path) -> None:
    with unit_of_work() as s:
        project = projects.ensure(s, "support")
        key, token = keys.create(s, project.id, "logs")
    output, port = tmp_path / "api.log", free_port()
    url = f"http://127.0.0.1:{port}"
    with running(api_command("127.0.0.1", port), output):
        wait_until(lambda: answers(f"{url}/readyz"), "the API is not ready")
        refused = httpx.get(f"{url}/v1/me", params={"api_key": LEAKED, "other": "not-for-the-log"}, timeout=30)
        known = httpx.get(f"{url}/v1/me?api_key={LEAKED}", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        httpx.get(f"{url}/v1/{LEAKED}", timeout=30)
    text = output.read_text(encoding="utf-8")
    assert (refused.status_code, known.status_code) == (401, 422)
    assert [secret for secret in (LEAKED, "not-for-the-log", token) if secret in text] == []
    requests = [line for line in lines_of(output) if line["event"] == "request" and line["path"] == "/v1/me"]
    assert [(line["status"], line["method"], line["request_id"]) for line in requests] == [
        (401, "GET", refused.headers["x-request-id"]),
        (422, "GET", known.headers["x-request-id"]),
    ]
    assert "key_id" not in requests[0]
    assert (requests[1]["key_id"], requests[1]["project_id"]) == (key.id, project.id)
    assert all(line["process"] == "api" and line["seconds"] >= 0 for line in requests)


def test_lines_of_dispatcher_and_worker(world: World, tmp_path: Path) -> None:
    """Celery's own lines too: its warning to root, its banner, and what it says of its tasks."""
    dispatcher, worker = tmp_path / "dispatcher.log", tmp_path / "worker.log"
    trivial = tuple(word.replace("workers.celery_app", "tests.integration.core.trivial_worker") for word in worker_command(["rollouts"], 1))
    with running(dispatcher_command(), dispatcher), running(trivial, worker):
        job = world.submit()
        assert_ends_as(job, "succeeded")
    assert {line["process"] for line in lines_of(dispatcher)} == {"dispatcher"}
    said = lines_of(worker)
    assert {line["process"] for line in said} == {"worker"}
    done = [line for line in said if line["event"] in ("item_claimed", "item_ended")]
    assert [(line["event"], line["job_id"], line["project_id"], line["step"]) for line in done] == [
        ("item_claimed", job, world.project_id, "validate"),
        ("item_ended", job, world.project_id, "validate"),
    ]
    assert len({line["item_id"] for line in done}) == 1
