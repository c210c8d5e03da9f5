"""What a project has used and may use: counted from the rows that bill jobs, refused with the time at which there is more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import keys, projects, usage
from distill.catalog.usage import NewUsage
from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens, job_body, serving
from tests.integration.api.finished import finish
from tests.integration.core.world import execute

Limits = Callable[[str], TestClient]


@pytest.fixture
def limited(tokens: Tokens, tmp_path: Path) -> Iterator[Limits]:
    """Makes a client of a server whose project `support` has a quota."""
    opened: list[TestClient] = []

    def make(quota: str) -> TestClient:
        settings = tmp_path / "stillhouse.toml"
        settings.write_text(f"{settings.read_text(encoding='utf-8')}\n[projects.support]\n{quota}\n", encoding="utf-8")
        get_settings.cache_clear()
        client = TestClient(create_app(), headers={"Authorization": f"Bearer {tokens.all}"})
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def paid(job_id: str, usd: float | None, role: str = "teacher:0", item: int = 1, kind: Any = "paid") -> None:
    with unit_of_work() as s:
        own = projects.get(s, "support").id
        usage.record(s, [NewUsage(item, 1, kind, f"big/{role}", own, job_id, role, 10, 1000, 100, 0, 1.0, usd)])


def refused(reply: Any) -> str:
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (429, "quota_exceeded", "quota_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 31 * 86_400
    return str(error["message"])


class TestStored:
    def test_uploads_and_jobs_above_the_limit_are_refused_until_something_is_deleted(self, limited: Limits) -> None:
        api = limited("max_blob_gb = 0.000001")
        rows = [{"message": "a" * 600, "category": "billing"}]
        first = api.post("/v1/datasets", json={"rows": rows})
        assert first.status_code == 201
        assert api.post("/v1/datasets", json={"rows": rows}).status_code == 201, "the same content again takes no more"
        stored = api.get("/v1/usage").json()
        assert 600 < stored["blob_bytes"] < 700
        assert stored["quotas"]["max_blob_gb"] == 0.000001
        larger = [{"message": "b" * 600, "category": "billing"}]
        file = ("a.jsonl", b'{"messages": []}\n' * 40)
        for asked in (
            api.post("/v1/datasets", json={"rows": larger}),
            api.post("/v1/files", files={"file": file}, data={"purpose": "fine-tune"}),
            api.post("/v1/compile_jobs", json=job_body(trainset=larger)),
        ):
            assert "[projects.support] max_blob_gb" in refused(asked)
        assert api.get("/v1/usage").json()["blob_bytes"] == stored["blob_bytes"]
        for dataset in api.get("/v1/datasets").json()["data"]:
            assert api.delete(f"/v1/datasets/{dataset['id']}").status_code == 200
        assert api.get("/v1/usage").json()["blob_bytes"] == 0
        assert api.post("/v1/datasets", json={"rows": larger}).status_code == 201


class TestUsage:
    def test_a_month_is_added_up(self, api: TestClient, tokens: Tokens) -> None:
        job = finish(api).job_id
        paid(job, 2.5)
        paid(job, 0.5, role="compiled", item=2)
        paid(job, None, role="teacher:1", item=3)
        paid(job, 9.0, item=4, kind="saved")
        execute("UPDATE fine_tune_jobs SET status = 'running', started_at = clock_timestamp(), trained_seconds = 12.5")
        used = api.get("/v1/usage").json()
        month = datetime.now(UTC)
        assert used["month"] == f"{month:%Y-%m}"
        assert used["starts_at"] <= time.time() < used["resets_at"]
        counted = ("open_jobs", "jobs", "rollouts", "calls", "prompt_tokens", "completion_tokens", "teacher_usd", "compute_seconds")
        assert [used[name] for name in counted] == [1, 1, 0, 30, 3000, 300, 2.5, 12.5]
        assert used["unknown"] == ["price of big/teacher:1"]
        assert used["quotas"]["max_jobs"] == 20_000

    def test_what_is_no_month_is_refused_without_a_pattern(self, api: TestClient) -> None:
        error = api.get("/v1/usage", params={"month": "2026-13"}).json()["error"]
        assert (error["param"], error["message"]) == ("month", "month: takes a month, as 2026-11")

    def test_other_months_and_projects_have_their_own(self, api: TestClient, tokens: Tokens) -> None:
        paid(finish(api).job_id, 2.5)
        execute("UPDATE lm_usage SET created_at = '2026-01-31T23:59:59Z'")
        assert api.get("/v1/usage").json()["teacher_usd"] == 0
        january = api.get("/v1/usage", params={"month": "2026-01"}).json()
        assert (january["teacher_usd"], january["jobs"], january["month"]) == (2.5, 0, "2026-01")
        assert january["resets_at"] == datetime(2026, 2, 1, tzinfo=UTC).timestamp()
        assert api.get("/v1/usage", params={"month": "2026-02"}).json()["teacher_usd"] == 0
        other = {"Authorization": f"Bearer {tokens.other}"}
        assert api.get("/v1/usage", params={"month": "2026-01"}, headers=other).json()["teacher_usd"] == 0

    def test_who_used_it_adds_up_to_the_same(self, api: TestClient, tokens: Tokens) -> None:
        first = finish(api).job_id
        paid(first, 2.5)
        paid(first, 9.0, item=2, kind="saved")
        execute("UPDATE fine_tune_jobs SET status = 'running', started_at = clock_timestamp(), trained_seconds = 12.5")
        with unit_of_work() as s:
            key, token = keys.create(s, projects.get(s, "support").id, "ana", ("jobs:read", "jobs:write"))
            ana = key.id
        api.headers["Authorization"] = f"Bearer {token}"
        paid(api.post("/v1/compile_jobs", json=job_body()).json()["id"], 0.5, item=3)
        month, told = api.get("/v1/usage").json(), api.get("/v1/usage/keys").json()
        assert [(row["label"], row["jobs"], row["calls"], row["teacher_usd"], row["compute_seconds"]) for row in told["data"]] == [
            ("test", 1, 10, 2.5, 12.5),
            ("ana", 1, 10, 0.5, 0.0),
        ]
        assert told["data"][1]["key_id"] == ana
        for name in ("jobs", "calls", "teacher_usd", "compute_seconds"):
            assert sum(row[name] for row in told["data"]) == month[name]
        assert time.time() - 7.1 * 86_400 < told["starts_at"] < time.time() - 6.9 * 86_400

        execute("UPDATE lm_usage SET created_at = created_at - interval '8 days'")
        execute("UPDATE fine_tune_jobs SET status = 'succeeded', finished_at = clock_timestamp() - interval '8 days'")
        assert [row["calls"] for row in api.get("/v1/usage/keys").json()["data"]] == [0, 0]
        assert sum(row["calls"] for row in api.get("/v1/usage/keys", params={"days": 9}).json()["data"]) == 20
        api.headers["Authorization"] = f"Bearer {tokens.other}"
        assert api.get("/v1/usage/keys", params={"days": 9}).json()["data"] == []

    @pytest.mark.parametrize("month", ["2026-13", "now", "2026-1"])
    def test_a_month_that_is_none(self, api: TestClient, month: str) -> None:
        reply = api.get("/v1/usage", params={"month": month})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "month")


class TestJobsAtOnce:
    def test_another_job_waits_for_the_end_of_one(self, limited: Limits) -> None:
        api = limited("max_jobs = 1")
        job = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        assert "max_jobs" in refused(api.post("/v1/compile_jobs", json=job_body()))
        line = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        file = api.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": "fine-tune"}).json()["id"]
        assert "max_jobs" in refused(api.post("/v1/fine_tuning/jobs", json={"training_file": file, "model": "tiny"}))
        api.post(f"/v1/compile_jobs/{job}/cancel")
        assert api.post("/v1/compile_jobs", json=job_body()).status_code == 201

    def test_many_at_once_do_not_pass_together(self, limited: Limits, tokens: Tokens) -> None:
        limited("max_jobs = 2")
        headers = {"Authorization": f"Bearer {tokens.all}"}
        with serving() as url, ThreadPoolExecutor(6) as pool:

            def ask(_: int) -> int:
                """Once more where it had to wait for its turn too long."""
                while (reply := httpx.post(f"{url}/v1/compile_jobs", json=job_body(), headers=headers, timeout=60)).status_code == 503:
                    pass
                return reply.status_code

            assert sorted(pool.map(ask, range(6))) == [201, 201, 429, 429, 429, 429]

    def test_a_failed_job_comes_back_as_one_more(self, limited: Limits) -> None:
        api = limited("max_jobs = 1")
        failed = finish(api).job_id
        fail_all()
        assert api.post("/v1/compile_jobs", json=job_body()).status_code == 201
        assert "max_jobs" in refused(api.post(f"/v1/compile_jobs/{failed}/retry"))


class TestMonths:
    def test_teachers_money(self, limited: Limits) -> None:
        api = limited("month_teacher_usd = 5")
        waits = api.post("/v1/compile_jobs", json=job_body(auto_start=False)).json()["id"]
        paused = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        assert api.post(f"/v1/compile_jobs/{paused}/pause").json()["status"] == "paused"
        paid(paused, 4.0)
        assert api.post("/v1/compile_jobs", json=job_body()).status_code == 201
        paid(paused, 1.0, item=2)
        for path in ("", f"/{waits}/start", f"/{paused}/resume"):
            message = refused(api.post(f"/v1/compile_jobs{path}", json=None if path else job_body()))
            assert "month_teacher_usd" in message
            assert "It resets on " in message
        assert api.get(f"/v1/compile_jobs/{waits}").json()["status"] == "created"
        execute("UPDATE lm_usage SET created_at = created_at - interval '1 month'")
        assert api.post(f"/v1/compile_jobs/{paused}/resume").status_code == 200
        assert api.post(f"/v1/compile_jobs/{waits}/start").status_code == 200

    def test_compute_seconds(self, limited: Limits) -> None:
        api = limited("month_compute_seconds = 10")
        finish(api)
        execute("UPDATE fine_tune_jobs SET status = 'running', started_at = clock_timestamp(), trained_seconds = 9")
        assert api.post("/v1/compile_jobs", json=job_body()).status_code == 201
        execute("UPDATE fine_tune_jobs SET trained_seconds = 10")
        assert "month_compute_seconds" in refused(api.post("/v1/compile_jobs", json=job_body()))

    def test_what_was_trained_before_a_retry_counts(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        fail_all()
        for round_seconds, whole in ((9.0, 9.0), (4.0, 13.0)):
            execute("UPDATE fine_tune_jobs SET trained_seconds = :seconds", seconds=round_seconds)
            assert api.get("/v1/usage").json()["compute_seconds"] == whole
            fail_all()
            assert api.post(f"/v1/compile_jobs/{job_id}/retry").status_code == 200
            assert api.get("/v1/usage").json()["compute_seconds"] == whole


def fail_all() -> None:
    """Every job, with its keys, after they have begun."""
    failed = "status = 'failed', started_at = now(), finished_at = now(), error = CAST(:error AS json)"
    error = json.dumps({"code": "x", "message": "It broke.", "step": "train", "category": "system"})
    for table in ("jobs", "fine_tune_jobs"):
        execute(f"UPDATE {table} SET {failed}", error=error)
