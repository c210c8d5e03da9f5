"""Operators: the jobs, usage and audit log of all projects, without the rows and traces of any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.jobs import claims, events, repository, workers
from distill.jobs.claims import WorkerInfo
from distill.settings import get_settings
from stack.cli import app as server_cli
from tests.integration.api.conftest import Run, Tokens, job_body


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def key_of(project: str, label: str, *scopes: str) -> tuple[str, dict[str, str]]:
    """The id of a new key, and the header that sends it."""
    with unit_of_work() as s:
        key, token = keys.create(s, projects.ensure(s, project).id, label, scopes)
        return key.id, bearer(token)


@pytest.fixture
def operator(tokens: Tokens) -> dict[str, str]:
    return key_of("default", "on call", "operator")[1]


def submit(api: TestClient, headers: dict[str, str], **changes: Any) -> str:
    reply = api.post("/v1/compile_jobs", json=job_body(**changes), headers=headers)
    assert reply.status_code == 201, reply.text
    job_id: str = reply.json()["id"]
    return job_id


def listed(api: TestClient, query: str, headers: dict[str, str]) -> set[str]:
    reply = api.get(f"/v1/compile_jobs?{query}", headers=headers)
    assert reply.status_code == 200, reply.text
    return {job["id"] for job in reply.json()["data"]}


def refused(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


class TestJobs:
    def test_of_all_projects_are_listed_by_project_and_by_who_made_them(
        self, api: TestClient, tokens: Tokens, operator: dict[str, str]
    ) -> None:
        ana_id, ana = key_of("support", "ana", "jobs:write")
        own, others, anas = submit(api, bearer(tokens.all)), submit(api, bearer(tokens.other)), submit(api, ana)
        assert listed(api, "project=*", operator) == {own, others, anas}
        assert listed(api, "project=other", operator) == {others}
        assert listed(api, "", operator) == set()
        assert listed(api, "project=*&created_by=ana", operator) == listed(api, f"created_by={ana_id}", ana) == {anas}
        shown = api.get(f"/v1/compile_jobs/{anas}", headers=operator).json()
        assert (shown["project"], shown["owner"], shown["created_by"]) == ("support", "ana", ana_id)

    def test_an_operator_acts_on_them_and_their_project_reads_so_in_its_log(
        self, api: TestClient, tokens: Tokens, operator: dict[str, str]
    ) -> None:
        job_id = submit(api, bearer(tokens.other))
        path = f"/v1/compile_jobs/{job_id}"
        said = [api.post(f"{path}/{act}", headers=operator).json()["status"] for act in ("pause", "resume", "cancel")]
        assert said == ["paused", "queued", "cancelled"]
        assert api.get(f"{path}/events", headers=operator).json()["data"]
        for part in ("cost", "logs", "curves", "fine_tuning_jobs"):
            assert api.get(f"{path}/{part}", headers=operator).status_code == 200, part
        log = api.get("/v1/audit_log?project=other&action=job.cancelled", headers=operator).json()["data"]
        assert [(entry["object_id"], entry["project"]) for entry in log] == [(job_id, "other")]
        assert api.get("/v1/audit_log?project=*&action=job.cancelled", headers=operator).json()["data"] == log

    def test_content_stays_with_the_project(self, api: TestClient, tokens: Tokens) -> None:
        job_id = submit(api, bearer(tokens.other))
        with unit_of_work() as s:
            events.append(s, job_id, "sample", "Row 1: category = CANARY", {"outputs": {"category": "CANARY"}})
        everything = key_of("default", "all of it", "operator", "admin", "jobs:read", "jobs:write")[1]
        path = f"/v1/compile_jobs/{job_id}"
        told = api.get(f"{path}/events", headers=everything)
        assert "sample" in [event["type"] for event in told.json()["data"]]
        assert "CANARY" not in told.text
        assert "CANARY" in api.get(f"{path}/events", headers=bearer(tokens.other)).text
        trainset = api.get(path, headers=everything).json()["trainset"]
        closed = (f"{path}/traces", f"{path}/rejections", f"{path}/training_files", f"{path}/evaluation", f"/v1/datasets/{trainset}/rows")
        assert {api.get(each, headers=everything).status_code for each in closed} == {404}

    def test_other_keys_see_no_other_project_and_operators_do_no_more(
        self, api: TestClient, tokens: Tokens, operator: dict[str, str]
    ) -> None:
        for query in ("project=*", "project=other"):
            for path in ("compile_jobs", "usage", "audit_log"):
                reply = api.get(f"/v1/{path}?{query}", headers=bearer(tokens.admin))
                assert refused(reply) == (422, "wrong_project"), (path, query)
        assert refused(api.post("/v1/compile_jobs", json=job_body(), headers=operator)) == (403, "missing_scope")
        made = api.post("/v1/api_keys", json={"label": "x", "scopes": ["operator"]}, headers=bearer(tokens.admin))
        assert refused(made) == (422, "operators_scope")


class TestCancellingMany:
    def test_by_who_made_them(self, api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
        ana = key_of("support", "ana", "jobs:write")[1]
        kept, anas = submit(api, bearer(tokens.all)), {submit(api, ana) for _ in range(2)}
        reply = api.post("/v1/compile_jobs/cancel", json={"created_by": "ana", "project": "*"}, headers=operator).json()
        assert ({job["id"] for job in reply["data"]}, reply["has_more"]) == (anas, False)
        assert listed(api, "project=*&status=cancelled", operator) == anas
        assert listed(api, "status=queued", bearer(tokens.all)) == {kept}
        again = api.post("/v1/compile_jobs/cancel", json={"created_by": "ana"}, headers=bearer(tokens.all)).json()
        assert again["data"] == []

    def test_everything_must_be_meant(self, api: TestClient, tokens: Tokens) -> None:
        assert api.post("/v1/compile_jobs/cancel", json={}).status_code == 422
        assert refused(api.post("/v1/compile_jobs/cancel", json={"project": "other"})) == (422, "wrong_project")

    def test_with_the_key_that_made_them(self, api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
        leaked_id, leaked = key_of("support", "leaked", "jobs:write")
        jobs = {submit(api, leaked) for _ in range(2)}
        assert api.delete(f"/v1/api_keys/{leaked_id}?cancel_jobs=true", headers=operator).json()["cancelled_jobs"] == 2
        assert api.get("/v1/me", headers=leaked).status_code == 401
        assert listed(api, f"project=*&created_by={leaked_id}&status=cancelled", operator) == jobs

    def test_a_key_is_revoked_even_when_a_job_cannot_be_cancelled(self, api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
        leaked_id, leaked = key_of("support", "leaked", "jobs:write")
        held, other = submit(api, leaked), submit(api, leaked)
        with unit_of_work() as s:
            repository.lock(s, held)
            reply = api.delete(f"/v1/api_keys/{leaked_id}?cancel_jobs=true", headers=operator)
        assert reply.status_code == 503
        assert api.get("/v1/me", headers=leaked).status_code == 401
        assert listed(api, "project=*&status=cancelled", operator) == {other}
        again = api.delete(f"/v1/api_keys/{leaked_id}?cancel_jobs=true", headers=operator)
        assert again.json()["cancelled_jobs"] == 1
        assert listed(api, "project=*&status=cancelled", operator) == {held, other}


def test_usage_of_one_project_and_of_each(api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
    submit(api, bearer(tokens.other))
    used = api.get("/v1/usage?project=other", headers=operator).json()
    assert (used["project"], used["jobs"]) == ("other", 1)
    assert api.get("/v1/usage/keys?project=other", headers=operator).json()["data"][0]["jobs"] == 1
    submit(api, bearer(tokens.all))
    everybody = api.get("/v1/usage/keys?project=*", headers=operator).json()
    assert (everybody["project"], [row["jobs"] for row in everybody["data"]]) == ("*", [1, 1])
    assert api.get("/v1/usage?project=*", headers=operator).status_code == 422
    each = {used["project"]: used["jobs"] for used in api.get("/v1/usage/projects", headers=operator).json()["data"]}
    assert each["other"] == 1
    assert each["support"] == 1
    assert [used["project"] for used in api.get("/v1/usage/projects").json()["data"]] == ["support"]


class TestLimits:
    def limits(self, api: TestClient) -> dict[str, tuple[Any, str]]:
        shown = api.get("/v1/projects/support").json()["limits"]
        return {name: (limit["value"], limit["source"]) for name, limit in shown.items()}

    def test_hold_at_once_and_stay_through_a_start(self, api: TestClient, tokens: Tokens, operator: dict[str, str], tmp_path: Path) -> None:
        with (tmp_path / "stillhouse.toml").open("a", encoding="utf-8") as file:
            file.write("[projects.support]\nshare = 3\nmax_jobs = 7\n")
        get_settings.cache_clear()
        with unit_of_work() as s:
            projects.sync(s, get_settings())
        assert (self.limits(api)["share"], self.limits(api)["max_threads"]) == ((3, "settings"), (None, "default"))
        changed = {"share": 2.5, "max_jobs": 1, "max_threads": 4}
        assert api.patch("/v1/projects/support", json=changed, headers=operator).status_code == 200
        submit(api, bearer(tokens.all))
        refusal = api.post("/v1/compile_jobs", json=job_body())
        assert refused(refusal) == (429, "quota_exceeded")
        assert "max_jobs, set by an operator" in refusal.json()["error"]["message"]
        with unit_of_work() as s:
            projects.sync(s, get_settings())
            row = projects.get(s, "support")
            assert (row.share, row.max_threads) == (2.5, 4)
        assert self.limits(api)["max_jobs"] == (1, "api")
        assert api.get("/v1/usage").json()["quotas"]["max_jobs"] == 1

    def test_null_gives_one_back_to_the_settings(self, api: TestClient, operator: dict[str, str]) -> None:
        api.patch("/v1/projects/support", json={"month_teacher_usd": 5, "max_threads": 2}, headers=operator)
        api.patch("/v1/projects/support", json={"month_teacher_usd": None}, headers=operator)
        found = self.limits(api)
        assert (found["month_teacher_usd"], found["max_threads"]) == ((1000, "default"), (2, "api"))
        log = api.get("/v1/audit_log?project=support&action=project.changed", headers=operator).json()["data"]
        assert [entry["data"] for entry in log] == [
            {"before": {"month_teacher_usd": 5}, "after": {"month_teacher_usd": 1000}},
            {"before": {"max_threads": None, "month_teacher_usd": 1000}, "after": {"max_threads": 2, "month_teacher_usd": 5}},
        ]

    def test_days_are_of_the_api_the_project_or_the_server(
        self, api: TestClient, tokens: Tokens, operator: dict[str, str], tmp_path: Path
    ) -> None:
        with (tmp_path / "stillhouse.toml").open("a", encoding="utf-8") as file:
            file.write("[retention]\nkeep_traces_days = 30\nkeep_events_days = 7\n[projects.support]\nkeep_events_days = 0\n")
        get_settings.cache_clear()
        assert (self.limits(api)["keep_traces_days"], self.limits(api)["keep_audit_log_days"]) == ((30, "settings"), (0, "default"))
        assert self.limits(api)["keep_events_days"] == (0, "settings"), "the project keeps them for ever"
        assert api.patch("/v1/projects/support", json={"keep_traces_days": 0}, headers=operator).status_code == 200
        assert self.limits(api)["keep_traces_days"] == (0, "api")
        assert api.patch("/v1/projects/support", json={"keep_traces_days": -1}, headers=operator).status_code == 422

    def test_only_operators_change_them(self, api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
        assert refused(api.patch("/v1/projects/support", json={"share": 9}, headers=bearer(tokens.admin))) == (403, "not_an_operator")
        for bad in ({"share": 0}, {"share": 1e-300}, {"max_threads": 0}, {"max_jobs": -1}, {"scrub": True}):
            assert api.patch("/v1/projects/support", json=bad, headers=operator).status_code == 422, bad
        assert api.patch("/v1/projects/none", json={}, headers=operator).status_code == 404


def test_workers_and_queues(api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
    with unit_of_work() as s:
        workers.seen(s, "one", ["light", "rollouts"], ["runtime:default"], 4, "9.9")
        workers.seen(s, "silent", ["train"], [], 1)
        s.execute(text("UPDATE workers SET seen_at = clock_timestamp() - interval '5 minutes' WHERE name = 'silent'"))
    for _ in range(3):
        submit(api, bearer(tokens.other))
    with unit_of_work() as s:
        assert claims.claim(s, "rollouts", WorkerInfo("one", frozenset({"runtime:default"}))) is not None
    found = {worker["name"]: worker for worker in api.get("/v1/workers", headers=operator).json()["data"]}
    assert {name: (each["alive"], each["threads_busy"], each["threads_free"], each["version"]) for name, each in found.items()} == {
        "one": (True, 1, 3, "9.9"),
        "silent": (False, 0, 0, None),
    }
    queues = {queue.pop("name"): queue for queue in api.get("/v1/queues", headers=operator).json()["data"]}
    rollouts = queues["rollouts"]
    assert (rollouts["depth"], rollouts["running"], rollouts["workers"], rollouts["threads_busy"]) == (2, 1, 1, 1)
    assert rollouts["oldest_seconds"] is not None
    assert (queues["train"]["depth"], queues["train"]["oldest_seconds"], queues["train"]["workers"]) == (0, None, 0)
    for path in ("/v1/workers", "/v1/queues"):
        assert refused(api.get(path, headers=bearer(tokens.admin))) == (403, "not_an_operator")


def test_workers_and_queues_on_the_command_line(known: Run, operator: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with unit_of_work() as s:
        workers.seen(s, "one", ["light"], [], 4, "9.9")
    monkeypatch.setenv("STILLHOUSE_API_KEY", operator["Authorization"].removeprefix("Bearer "))
    assert "9.9" in known("workers", "list").output
    assert "rollouts" in known("queues", "list").output


class TestMaintenance:
    def test_new_jobs_wait_until_its_end_and_all_else_is_served(self, api: TestClient, tokens: Tokens, operator: dict[str, str]) -> None:
        job_id = submit(api, bearer(tokens.all))
        with unit_of_work() as s:
            workers.seen(s, "one", ["light"], [], 4)
        begun = api.put("/v1/maintenance", json={"reason": "new disks"}, headers=operator).json()
        assert (begun["draining"], begun["reason"], begun["running_items"]) == (True, "new disks", 0)
        once = {"Idempotency-Key": "the same request"}
        refusal = api.post("/v1/compile_jobs", json=job_body(), headers=once)
        assert refused(refusal) == (503, "maintenance")
        assert refusal.headers["retry-after"] == "120"
        assert api.get("/readyz").json() == {"status": "draining"}
        assert [worker["draining"] for worker in api.get("/v1/workers", headers=operator).json()["data"]] == [True]
        assert "maintenance" in api.get(f"/v1/compile_jobs/{job_id}").json()["queue"]["reason"]
        assert api.delete("/v1/maintenance", headers=operator).json()["draining"] is False
        assert api.post("/v1/compile_jobs", json=job_body(), headers=once).status_code == 201
        assert api.get("/readyz").json() == {"status": "ok"}
        log = api.get("/v1/audit_log?project=default", headers=operator).json()["data"]
        assert [(entry["action"], entry["data"]) for entry in log[:2]] == [
            ("server.resumed", {}),
            ("server.drained", {"reason": "new disks"}),
        ]

    def test_is_for_operators(self, api: TestClient, tokens: Tokens) -> None:
        for act in (api.get, api.put, api.delete):
            assert refused(act("/v1/maintenance", headers=bearer(tokens.admin))) == (403, "not_an_operator")

    def test_on_the_command_line(self, known: Run, operator: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_API_KEY", operator["Authorization"].removeprefix("Bearer "))
        assert "(new disks); work items still held: 0" in known("maintenance", "begin", "--reason", "new disks").output
        assert "Draining since" in known("maintenance", "status").output
        assert known("maintenance", "end").output == "Not draining\n"


def test_the_servers_own_command_drains_too(tokens: Tokens) -> None:
    def drain(*options: str) -> Result:
        return CliRunner().invoke(server_cli, ["drain", *options])

    assert "(new disks); work items still held: 0" in drain("--wait", "--reason", "new disks").output
    assert drain("--undo", "--wait").exit_code == 1
    assert "Draining since" in drain("--status").output
    assert drain("--undo").output == drain("--status").output == "The server takes jobs.\n"
