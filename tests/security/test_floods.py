"""Code of users that takes what its server has few of: open files and memory. It fails alone."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from distill.catalog import projects
from distill.db import unit_of_work
from distill.relay import Relay, RelayLimits, connections_for
from distill.rollouts import RunnerPool
from stack.network import answers, free_port
from stack.plan import api_command
from stillhouse_programs.spec import parse_bundle
from tests.integration.api.conftest import ROWS, Tokens
from tests.support.bundles import PYTHON
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import wait_until
from tests.unit.runner.routing import LMS, ROUTER, example, grant, route, run

FILES = 1024
"""The usual soft limit."""
FULL = "runner_connections_exhausted"
FLOOD = """
import os, socket, time

def connections():
    held = []
    for number in range(3, 20_000):  # a descriptor has the number that it has in the server
        try:
            door = socket.socket(fileno=os.dup(number))
            door.settimeout(2)
            while len(held) < 3000:
                door.send(b"?")
                found = socket.recv_fds(door, 1, 1)[1]
                if not found:
                    break
                held += found
        except OSError:
            continue
    return held

def count(example, prediction, trace=None):
    return float(len(connections()))

def hold(example, prediction, trace=None):
    held = connections()
    time.sleep(5)
    return 1.0 if held else 0.0
"""
BUNDLE = {"bundle_version": 1, "python": PYTHON, "files": {"flood/__init__.py": FLOOD}}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.record("rule-floods")
def test_code_of_users_gets_as_many_connections_as_one_runner_may_hold(api: TestClient) -> None:
    bundle = api.post("/v1/bundles", json=BUNDLE).json()["digest"]
    metric = api.post("/v1/metrics", json={"spec": {"type": "reference", "reference": "flood:count", "bundle": bundle}}).json()["id"]
    tried = api.post(f"/v1/metrics/{metric}/try", json={"examples": ROWS[:1], "predictions": [{"category": "billing"}]}).json()
    assert tried["data"][0]["value"] == RelayLimits(connections=connections_for(8)).runner_connections


@pytest.mark.slow
def test_a_metric_that_takes_all_connections_harms_no_other_caller(tokens: Tokens, redis_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "api.log"
    url, key = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {tokens.all}"}
    command = ("sh", "-c", f'ulimit -Sn {FILES}; exec "$@"', "sh", *api_command("127.0.0.1", port))
    environment = {**os.environ, "STILLHOUSE_BUNDLES__ACCEPT": "true", "STILLHOUSE_SERVER__HOSTS": '["127.0.0.1"]'}
    with (
        log.open("wb") as out,
        ThreadPoolExecutor(31) as threads,
        subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            wait_until(lambda: answers(f"{url}/readyz"), "the API is ready")
            with httpx.Client(base_url=url, headers=key, timeout=90) as client:
                bundle = client.post("/v1/bundles", json=BUNDLE).json()
                spec = {"type": "reference", "reference": "flood:hold", "bundle": bundle["digest"]}
                metric = client.post("/v1/metrics", json={"spec": spec}).json()
                pair = {"examples": ROWS[:1], "predictions": [{"category": "billing"}]}
                tried = threads.submit(client.post, f"/v1/metrics/{metric['id']}/try", json=pair)
                wait_until(lambda: FULL in log.read_text() or open_files(process.pid) > FILES - 20, "it holds what it may")
                asked = list(threads.map(lambda _: httpx.get(f"{url}/v1/me", headers=key, timeout=30).status_code, range(60)))
                assert Counter(asked) == {200: 60}
                assert tried.result().json()["data"][0]["value"] == 1.0
        finally:
            process.kill()
    with unit_of_work() as s:
        project = projects.ensure(s, "support").id
    assert project in next(line for line in log.read_text().splitlines() if FULL in line)


def test_a_job_that_holds_all_connections_harms_no_other_job_of_its_worker() -> None:
    """Also one that asks for more than a runner may hold itself: its calls wait for one another."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))
    relay = Relay(RelayLimits(connections=connections_for(64))).start()
    digest = parse_bundle(BUNDLE).digest
    flood = {"metric": {"type": "reference", "reference": "flood:hold", "bundle": digest}, "examples": [{}], "predictions": [{}]}
    try:
        with (
            RunnerPool(relay, {"default": sys.executable}, bundles=lambda project, digest: BUNDLE) as pool,
            pool.runner("one", "job-attacker", PYTHON, bundles=[digest]) as attacker,
            pool.runner("other", "job-victim") as victim,
            ScriptedLM(answer=route) as lm,
            ThreadPoolExecutor(1) as threads,
            capture_logs() as logs,
        ):
            tried = threads.submit(attacker.ask, "try_metric", silence_seconds=60, **flood)
            wait_until(lambda: logs != [], "it holds what it may")
            victim.ensure_open("router", program=ROUTER, lms=LMS)
            events = run(victim, grant(relay, lm).token, [example(at, "x", "other") for at in range(24)], width=24)
            assert events[-1]["counts"]["passed"] == 24
            assert tried.result()["scores"][0]["value"] == 1.0
    finally:
        relay.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    told = {(each["event"], each["project"], each["job"]) for each in logs}
    assert told == {(FULL, "one", "job-attacker"), (FULL, "other", "job-victim")}
