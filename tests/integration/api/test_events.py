"""A job's events as a list and as a stream that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from distill.catalog import keys
from distill.db import unit_of_work
from distill.jobs import events
from distill.settings import get_settings
from stillhouse import Stillhouse
from tests.integration.api.conftest import Tokens, fault, job_body, serving
from tests.support.server_process import wait_until

STREAM = {"Accept": "text/event-stream"}


def messages(text: str) -> list[dict[str, Any]]:
    """The events of a stream's text, each with the fields it came with."""
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if "data:" in block]
    return [dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")) for block in blocks]


@pytest.fixture
def finished(api: TestClient) -> str:
    """A job that was cancelled after five log events."""
    job_id: str = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
    with unit_of_work() as s:
        for number in range(5):
            events.append(s, job_id, "log", f"line {number}", {"number": number})
    api.post(f"/v1/compile_jobs/{job_id}/cancel")
    return job_id


@contextmanager
def followed(address: str, tokens: Tokens, *, by_session: bool = False) -> Iterator[tuple[httpx.Client, str, Iterator[str]]]:
    """A client, its new job, and the lines of the job's stream after the first event's number."""
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {tokens.all}"}, timeout=30) as client:
        job_id = client.post("/v1/compile_jobs", json=job_body()).json()["id"]
        if by_session:
            own_page = {"Origin": address, "X-CSRF-Token": client.post("/v1/session").json()["csrf_token"]}
            client.headers = httpx.Headers(own_page)
        with client.stream("GET", f"/v1/compile_jobs/{job_id}/events", headers=STREAM) as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if line.startswith("id:")) == "id: 1"
            yield client, job_id, lines


class TestList:
    def test_numbers_count_up_without_a_gap(self, api: TestClient, finished: str) -> None:
        page = api.get(f"/v1/compile_jobs/{finished}/events").json()
        assert [event["id"] for event in page["data"]] == list(range(1, len(page["data"]) + 1))
        assert page["data"][-1]["type"] == "done"
        assert {"id", "object", "created_at", "level", "type", "message", "data"} <= set(page["data"][0])

    def test_pages(self, api: TestClient, finished: str) -> None:
        first = api.get(f"/v1/compile_jobs/{finished}/events?limit=3").json()
        assert first["has_more"] is True
        rest = api.get(f"/v1/compile_jobs/{finished}/events", params={"after": first["last_id"]}).json()
        assert rest["data"][0]["id"] == 4


class TestStream:
    def test_replays_everything_and_ends_after_done(self, api: TestClient, finished: str) -> None:
        reply = api.get(f"/v1/compile_jobs/{finished}/events", headers=STREAM)
        assert reply.headers["content-type"].startswith("text/event-stream")
        sent = messages(reply.text)
        listed = api.get(f"/v1/compile_jobs/{finished}/events").json()["data"]
        assert [json.loads(message["data"]) for message in sent] == listed
        assert [int(message["id"]) for message in sent] == [event["id"] for event in listed]
        assert sent[-1]["event"] == "done"

    def test_a_message_with_a_line_separator_stays_one_event(self, address: str, tokens: Tokens, finished: str) -> None:
        """Clients split lines as Unicode does, which knows more line breaks than the format has."""
        odd = "one\u2028two\u2029three\x85four \N{SNOWMAN}"
        with unit_of_work() as s:
            events.append(s, finished, "log", odd)
        with Stillhouse(address, tokens.all) as client:
            assert odd in [event.message for event in client.compile_jobs.events.stream(finished)]

    def test_last_event_id_resumes_after_it(self, api: TestClient, finished: str) -> None:
        sent = messages(api.get(f"/v1/compile_jobs/{finished}/events", headers={**STREAM, "Last-Event-ID": "4"}).text)
        assert int(sent[0]["id"]) == 5

    def test_nothing_left_is_204(self, api: TestClient, finished: str) -> None:
        last = api.get(f"/v1/compile_jobs/{finished}/events").json()["last_id"]
        reply = api.get(f"/v1/compile_jobs/{finished}/events", headers={**STREAM, "Last-Event-ID": last})
        assert reply.status_code == 204

    def test_what_comes_after_done_is_sent_and_the_stream_still_ends(self, api: TestClient, finished: str) -> None:
        last = api.get(f"/v1/compile_jobs/{finished}/events").json()["last_id"]
        with unit_of_work() as s:
            events.append(s, finished, "log", "late")
        reply = api.get(f"/v1/compile_jobs/{finished}/events", headers={**STREAM, "Last-Event-ID": last})
        assert [message["event"] for message in messages(reply.text)] == ["log"]

    def test_a_browser_that_has_signed_out_hears_nothing_more(self, address: str, tokens: Tokens) -> None:
        with followed(address, tokens, by_session=True) as (client, job_id, lines):
            assert client.delete("/v1/session").status_code == 200
            with unit_of_work() as s:
                events.append(s, job_id, "log", "not for you")
            assert "not for you" not in "".join(lines)

    def test_a_bad_last_event_id_is_refused(self, api: TestClient, finished: str) -> None:
        reply = api.get(f"/v1/compile_jobs/{finished}/events", headers={**STREAM, "Last-Event-ID": "four"})
        assert reply.status_code == 422

    def test_events_arrive_while_the_job_goes_on(self, address: str, tokens: Tokens) -> None:
        with followed(address, tokens) as (client, job_id, lines):
            with unit_of_work() as s:
                events.append(s, job_id, "log", "hello")
            assert '"hello"' in next(line for line in lines if line.startswith("data:") and '"log"' in line)
            client.post(f"/v1/compile_jobs/{job_id}/cancel")
            assert [line for line in lines if line.startswith("event:")][-1] == "event: done"

    def test_a_key_that_is_revoked_hears_nothing_more(self, address: str, tokens: Tokens) -> None:
        with followed(address, tokens) as (client, job_id, lines):
            with unit_of_work() as s:
                key = keys.verify(s, tokens.all)
                keys.revoke(s, key.project_id, str(key.key_id))
            with unit_of_work() as s:
                events.append(s, job_id, "log", "not for you")
            assert "not for you" not in "".join(lines)
            assert client.get(f"/v1/compile_jobs/{job_id}/events", headers=STREAM).json()["error"]["code"] == "revoked_api_key"


def test_a_project_holds_no_more_streams_than_it_may(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_LIMITS__EVENT_STREAMS", "2")
    get_settings.cache_clear()
    with serving() as address, httpx.Client(base_url=address, headers=STREAM, timeout=30) as client:

        def asked(job_id: str, token: str) -> tuple[int, str | None]:
            with client.stream("GET", f"/v1/compile_jobs/{job_id}/events", headers={"Authorization": f"Bearer {token}"}) as reply:
                return reply.status_code, reply.headers.get("retry-after")

        with followed(address, tokens) as (_, job_id, _), followed(address, tokens):
            assert asked(job_id, tokens.read) == (429, "5")
            refused = client.get(f"/v1/compile_jobs/{job_id}/events", headers={"Authorization": f"Bearer {tokens.all}"})
            code, _, message = fault(refused, 429)
            assert code == "too_many_streams"
            assert "2 event streams" in message
            assert "[limits] event_streams" in message
            waits = client.get(f"/v1/compile_jobs/{job_id}", params={"wait": 60}, headers={"Authorization": f"Bearer {tokens.all}"})
            assert (waits.headers["retry-after"], fault(waits, 429)[0]) == ("5", "too_many_streams")
            other = {"Authorization": f"Bearer {tokens.other}"}
            theirs = client.post("/v1/compile_jobs", json=job_body(), headers=other).json()["id"]
            assert asked(theirs, tokens.other) == (200, None)
        wait_until(lambda: asked(job_id, tokens.all)[0] == 200, "a stream that was closed counts no more")


def test_streams_and_reads_that_wait_are_bounded_when_they_come_at_once(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_LIMITS__EVENT_STREAMS", "2")
    get_settings.cache_clear()
    own = {"Authorization": f"Bearer {tokens.all}"}
    with serving() as address, httpx.Client(base_url=address, headers=own, timeout=90) as client, ThreadPoolExecutor(12) as beside:
        job = f"/v1/compile_jobs/{client.post('/v1/compile_jobs', json=job_body()).json()['id']}"
        waits = [beside.submit(client.get, job, params={"wait": 60}) for _ in range(6)]
        streams = [beside.submit(client.get, f"{job}/events", headers=STREAM) for _ in range(6)]
        wait_until(lambda: sum(each.done() for each in (*waits, *streams)) == 10, "more are held than may be")
        assert client.get(job).status_code == 200
        client.post(f"{job}/cancel")
        assert sorted(each.result(60).status_code for each in (*waits, *streams)) == [200, 200] + [429] * 10
        assert client.get(job, params={"wait": 1}).status_code == 200, "what has ended still counts"
