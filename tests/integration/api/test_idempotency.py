"""The same Idempotency-Key makes one object, however often and however parallel it is sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.storage import BlobWriter, FolderStore
from tests.integration.api.conftest import SPEC, Tokens, job_body
from tests.integration.core.world import execute

_STANDING_STILL = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'")
KEY = {"Idempotency-Key": "weekly-2026-w47"}


class TestReplay:
    def test_same_key_and_body_get_the_stored_reply(self, api: TestClient) -> None:
        first = api.post("/v1/compile_jobs", json=job_body(), headers=KEY)
        second = api.post("/v1/compile_jobs", json=job_body(), headers=KEY)
        assert (first.status_code, second.status_code) == (201, 201)
        assert second.content == first.content
        assert second.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert second.headers["location"] == first.headers["location"]
        assert len(api.get("/v1/compile_jobs").json()["data"]) == 1

    def test_another_body_is_refused(self, api: TestClient) -> None:
        api.post("/v1/compile_jobs", json=job_body(), headers=KEY)
        reply = api.post("/v1/compile_jobs", json=job_body(seed=8), headers=KEY)
        assert reply.status_code == 422
        assert reply.json()["error"]["code"] == "idempotency_key_reused"

    def test_a_refused_request_may_be_repeated_with_the_key(self, api: TestClient) -> None:
        assert api.post("/v1/compile_jobs", json=job_body(trainset="ds-none"), headers=KEY).status_code == 422
        assert api.post("/v1/compile_jobs", json=job_body(), headers=KEY).status_code == 201

    def test_after_two_days_a_key_is_new(self, api: TestClient) -> None:
        first = api.post("/v1/compile_jobs", json=job_body(), headers=KEY)
        execute("UPDATE idempotency_keys SET created_at = clock_timestamp() - interval '48 hours 1 minute'")
        second = api.post("/v1/compile_jobs", json=job_body(seed=8), headers=KEY)
        assert second.status_code == 201, second.text
        assert second.json()["id"] != first.json()["id"]

    def test_a_key_is_of_one_project(self, api: TestClient, tokens: Tokens) -> None:
        first = api.post("/v1/programs", json={"spec": SPEC}, headers=KEY)
        other = api.post("/v1/programs", json={"spec": SPEC}, headers={**KEY, "Authorization": f"Bearer {tokens.other}"})
        assert other.status_code == 201
        assert other.json()["id"] != first.json()["id"]

    def test_a_key_is_of_one_route(self, api: TestClient) -> None:
        assert api.post("/v1/programs", json={"spec": SPEC}, headers=KEY).status_code == 201
        assert api.post("/v1/compile_jobs", json=job_body(), headers=KEY).status_code == 201

    @pytest.mark.parametrize("content_type", ["application/jsonl", "text/csv"])
    def test_uploads_compare_their_bytes(self, api: TestClient, content_type: str) -> None:
        headers = {**KEY, "Content-Type": content_type}
        body = b'{"message": "a"}\n' if content_type.endswith("jsonl") else b"message\na\n"
        first = api.post("/v1/datasets", content=body, headers=headers).json()
        assert api.post("/v1/datasets", content=body, headers=headers).json() == first
        assert api.post("/v1/datasets", content=body + body, headers=headers).status_code == 422


class TestUploads:
    def test_no_transaction_stands_still_while_rows_are_stored(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        """PostgreSQL ends one that does for 15 s, and rows may take longer: a large file, a slow bucket."""
        found: list[int] = []
        put = FolderStore.writer

        def writer(store: FolderStore) -> AbstractContextManager[BlobWriter]:
            with unit_of_work() as s:
                found.append(s.execute(_STANDING_STILL).scalar_one())
            return put(store)

        monkeypatch.setattr(FolderStore, "writer", writer)
        headers = {**KEY, "Content-Type": "application/jsonl"}
        assert api.post("/v1/datasets", content=b'{"message": "a"}\n', headers=headers).status_code == 201
        assert found == [0]


class TestRace:
    def test_parallel_requests_make_one_job(self, address: str, tokens: Tokens) -> None:
        headers = {**KEY, "Authorization": f"Bearer {tokens.all}"}

        def send(_: int) -> httpx.Response:
            return httpx.post(f"{address}/v1/compile_jobs", json=job_body(), headers=headers, timeout=30)

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(send, range(16)))
        assert {reply.status_code for reply in replies} <= {201, 409}
        assert {reply.json()["id"] for reply in replies if reply.status_code == 201}.__len__() == 1
        assert all(reply.headers["retry-after"] for reply in replies if reply.status_code == 409)
        listed = httpx.get(f"{address}/v1/compile_jobs", headers=headers).json()
        assert len(listed["data"]) == 1
