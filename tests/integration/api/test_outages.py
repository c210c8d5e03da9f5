"""The database is lost, slow or full: callers are told to come back, nothing is half there, and the process answers for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import Session, engine
from distill.jobs import service
from distill.jobs.models import Job
from tests.integration.api.conftest import Tokens, job_body, serving
from tests.support.cut_off import CutOff, Moment
from tests.support.databases import forget_settings

KEY = {"Idempotency-Key": "weekly-2026-w48"}
Submit = Callable[..., Job]


def jobs_of(api: TestClient) -> list[str]:
    return [job["id"] for job in api.get("/v1/compile_jobs").json()["data"]]


class Interrupted:
    """`service.submit`, whose transaction the database ends in its middle for the first so many times."""

    def __init__(self, statement: str, times: int) -> None:
        self._submit: Submit = service.submit
        self._statement, self._left, self.calls = statement, times, 0

    def __call__(self, s: Session, *values: Any, **named: Any) -> Job:
        self.calls += 1
        job = self._submit(s, *values, **named)
        if self._left:
            self._left -= 1
            s.execute(text(self._statement))
        return job


KILLED = "SELECT pg_terminate_backend(pg_backend_pid())"
TAKEN_BACK = "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$"
NO_SERIAL = "DO $$ BEGIN RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001'; END $$"
TOO_SLOW = "DO $$ BEGIN RAISE EXCEPTION 'statement timeout' USING ERRCODE = '57014'; END $$"
FULL = "DO $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$"
STANDBY = "DO $$ BEGIN RAISE EXCEPTION 'read-only transaction' USING ERRCODE = '25006'; END $$"


class TestInterruptedTransactions:
    @pytest.mark.parametrize("statement", [KILLED, TAKEN_BACK, NO_SERIAL])
    def test_one_that_was_undone_is_run_again_as_a_whole(self, api: TestClient, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
        submit = Interrupted(statement, times=2)
        monkeypatch.setattr(service, "submit", submit)
        reply = api.post("/v1/compile_jobs", json=job_body())
        assert reply.status_code == 201, reply.text
        assert submit.calls == 3
        assert jobs_of(api) == [reply.json()["id"]]

    def test_after_three_tries_the_caller_is_asked_to_come_back(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        submit = Interrupted(KILLED, times=9)
        monkeypatch.setattr(service, "submit", submit)
        reply = api.post("/v1/compile_jobs", json=job_body())
        assert (reply.status_code, submit.calls) == (503, 3)
        assert int(reply.headers["retry-after"]) > 0
        assert jobs_of(api) == []

    @pytest.mark.parametrize("statement", [TOO_SLOW, FULL, STANDBY])
    def test_what_would_fail_again_is_503_at_once(self, api: TestClient, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
        submit = Interrupted(statement, times=1)
        monkeypatch.setattr(service, "submit", submit)
        reply = api.post("/v1/compile_jobs", json=job_body())
        assert (reply.status_code, submit.calls) == (503, 1)
        assert jobs_of(api) == []


class TestUnknownCommits:
    """The connection breaks at COMMIT: the job is there as a whole or not at all, and the same key makes one job."""

    @pytest.fixture
    def proxy(self, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CutOff]:
        with CutOff(database) as proxy:
            monkeypatch.setenv("DATABASE_URL", proxy.url)
            forget_settings()
            yield proxy

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_with_a_key_the_caller_notices_nothing(self, proxy: CutOff, api: TestClient, moment: Moment) -> None:
        api.get("/v1/me")
        with ExitStack() as stack:
            _arm_after_key_check(stack, proxy, moment)
            reply = api.post("/v1/compile_jobs", json=job_body(), headers=KEY)
        assert proxy.cuts == 1
        assert reply.status_code == 201, reply.text
        assert jobs_of(api) == [reply.json()["id"]]
        assert api.post("/v1/compile_jobs", json=job_body(), headers=KEY).json()["id"] == reply.json()["id"]

    @pytest.mark.parametrize(("moment", "jobs"), [("before", 0), ("after", 1)])
    def test_without_one_it_is_told_that_nobody_knows(self, proxy: CutOff, api: TestClient, moment: Moment, jobs: int) -> None:
        with ExitStack() as stack:
            _arm_after_key_check(stack, proxy, moment)
            reply = api.post("/v1/compile_jobs", json=job_body())
        assert proxy.cuts == 1
        assert reply.status_code == 503
        assert "as a whole or not at all" in reply.json()["error"]["message"]
        assert len(jobs_of(api)) == jobs


def _arm_after_key_check(stack: ExitStack, proxy: CutOff, moment: Moment) -> None:
    """The key check commits too; the next COMMIT is the request's own."""
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    submit: Submit = service.submit

    def arming(s: Session, *values: Any, **named: Any) -> Job:
        if not proxy.cuts:
            proxy.armed = moment
        return submit(s, *values, **named)

    patch.setattr(service, "submit", arming)


@pytest.mark.slow
class TestOverload:
    def test_without_a_free_connection_it_is_503_and_the_process_lives(self, tokens: Tokens) -> None:
        """More requests than threads, all waiting for a connection: /livez is answered before any of them gives up."""
        with serving() as url, ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(engine("api").connect())
            with ThreadPoolExecutor(50) as pool, httpx.Client(limits=httpx.Limits(max_connections=60), timeout=60) as client:
                waiting = [pool.submit(client.get, f"{url}/v1/me", headers=_bearer(tokens)) for _ in range(45)]
                alive = pool.submit(client.get, f"{url}/livez")
                first, _ = wait([alive, *waiting], return_when=FIRST_COMPLETED)
                assert first == {alive}
                assert alive.result().status_code == 200
                replies = [future.result() for future in waiting]
                assert {reply.status_code for reply in replies} == {503}
                assert all(int(reply.headers["retry-after"]) > 0 for reply in replies)
                assert client.get(f"{url}/readyz").status_code == 503


def _bearer(tokens: Tokens) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.all}"}
