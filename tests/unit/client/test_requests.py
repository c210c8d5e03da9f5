"""What the client sends, when it sends it again, and what it raises."""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import date
from email.utils import formatdate
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

import stillhouse
from stillhouse import APIConnectionError, APITimeoutError, ConflictError, ServerError, UnprocessableEntityError
from tests.unit.client.conftest import job, reply, scripted, scripted_async

ERROR = {
    "error": {
        "message": "Row 3 lacks `message`",
        "type": "invalid_request_error",
        "code": "invalid_rows",
        "param": "trainset[2].message",
        "request_id": "req-1",
        "details": [{"row": 3, "field": "message", "message": "missing"}],
    }
}


class Tone(enum.Enum):
    WARM = "warm"


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"id": '
        raise httpx.ReadError("reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"id": '
        raise httpx.ReadError("reset")


class TestCreate:
    def test_sends_only_what_was_given(self) -> None:
        client, script = scripted(reply(job(), 201))
        made = client.compile_jobs.create(program="prog-1", trainset=[{"a": 1}], metric="exact_match", seed=7)
        assert made.id == "cjob-1"
        request = script.requests[0]
        assert (request.method, request.url.path) == ("POST", "/v1/compile_jobs")
        assert json.loads(request.content) == {"program": "prog-1", "trainset": [{"a": 1}], "metric": "exact_match", "seed": 7}
        assert request.headers["authorization"] == "Bearer sh_a_b"

    def test_a_retry_repeats_the_idempotency_key(self) -> None:
        client, script = scripted(httpx.ConnectError("down"), reply(status=503), reply(job(), 201))
        client.compile_jobs.create(program="prog-1", trainset="ds-1")
        keys = {request.headers["idempotency-key"] for request in script.requests}
        assert (len(script.requests), len(keys)) == (3, 1)

    def test_two_creations_have_two_keys(self) -> None:
        client, script = scripted(reply(job(), 201))
        for _ in range(2):
            client.compile_jobs.create(program="prog-1", trainset="ds-1")
        assert len({request.headers["idempotency-key"] for request in script.requests}) == 2

    def test_the_callers_key_is_used(self) -> None:
        client, script = scripted(reply(job(), 201))
        client.compile_jobs.create(program="prog-1", trainset="ds-1", idempotency_key="weekly")
        assert script.requests[0].headers["idempotency-key"] == "weekly"


class TestMetadata:
    def test_is_read_back_of_all_that_takes_it(self) -> None:
        client, script = scripted(reply({"id": "x", "rows": 1, "metadata": {"week": "47"}}))
        for noun in (client.datasets, client.programs, client.metrics):
            assert noun.retrieve("x").metadata == {"week": "47"}
        script.answers[:] = [reply({"id": "x", "rows": 1})]
        for noun in (client.datasets, client.programs, client.metrics):
            assert noun.retrieve("x").metadata == {}


class TestRetry:
    @pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 529])
    def test_statuses_that_may_pass(self, status: int) -> None:
        client, script = scripted(reply(status=status), reply(job()))
        assert client.compile_jobs.retrieve("cjob-1").id == "cjob-1"
        assert len(script.requests) == 2

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 415, 422])
    def test_statuses_that_stand(self, status: int) -> None:
        client, script = scripted(reply(ERROR, status))
        with pytest.raises(stillhouse.APIStatusError):
            client.compile_jobs.retrieve("cjob-1")
        assert len(script.requests) == 1

    def test_a_running_first_request_is_waited_for(self) -> None:
        client, script = scripted(reply(ERROR, 409, retry_after="1"), reply(job(), 201))
        client.compile_jobs.create(program="prog-1", trainset="ds-1")
        assert script.slept == [1.0]

    def test_the_servers_wish_goes_first(self) -> None:
        client, script = scripted(reply(status=429, retry_after="7"), reply(job()))
        client.compile_jobs.retrieve("cjob-1")
        assert script.slept == [7.0]

    def test_a_wish_may_be_a_date(self) -> None:
        soon = formatdate(time.time() + 20, usegmt=True)
        client, script = scripted(reply(status=503, retry_after=soon), reply(status=503, retry_after="soon"), reply(job()))
        client.compile_jobs.retrieve("cjob-1")
        dated, unread = script.slept
        assert 15 < dated <= 20
        assert unread <= 1.0

    def test_a_reply_that_breaks_off_is_asked_for_again(self) -> None:
        client, script = scripted(httpx.Response(201, stream=Broken()), reply(job(), 201))
        assert client.compile_jobs.create(program="prog-1", trainset="ds-1").id == "cjob-1"
        assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
        client, script = scripted(lambda _: httpx.Response(201, stream=Broken()))
        with pytest.raises(APIConnectionError, match="http://server was not reached"):
            client.me()
        assert len(script.requests) == 3

    def test_async(self) -> None:
        async def go() -> None:
            broken = httpx.Response(200, stream=Broken())
            client, script = scripted_async(reply(status=503, retry_after="0"), broken, reply(job()))
            async with client:
                assert (await client.compile_jobs.retrieve("cjob-1")).id == "cjob-1"
            assert len(script.requests) == 3
            client, script = scripted_async(reply(ERROR, 503, retry_after="0"))
            async with client:
                with pytest.raises(stillhouse.ServiceUnavailableError):
                    await client.me()
            assert len(script.requests) == 3

        asyncio.run(go())

    def test_a_wish_too_long_is_raised_with_it(self) -> None:
        client, script = scripted(reply(ERROR, 503, retry_after="3600"))
        with pytest.raises(stillhouse.ServiceUnavailableError) as raised:
            client.compile_jobs.retrieve("cjob-1")
        assert (raised.value.retry_after, script.slept) == (3600.0, [])

    def test_pauses_grow_and_end(self) -> None:
        client, script = scripted(reply(status=500), max_retries=4)
        with pytest.raises(ServerError):
            client.compile_jobs.retrieve("cjob-1")
        assert len(script.requests) == 5
        bases = [0.5, 1.0, 2.0, 4.0]
        assert all(base * 0.75 <= pause <= base for pause, base in zip(script.slept, bases, strict=True))

    def test_a_dead_server(self) -> None:
        client, _ = scripted(httpx.ConnectError("refused"))
        with pytest.raises(APIConnectionError):
            client.me()

    def test_a_slow_server(self) -> None:
        client, _ = scripted(httpx.ReadTimeout("slow"))
        with pytest.raises(APITimeoutError):
            client.me()


class TestAddresses:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("a#b", "a%23b"),
            ("a?b=c", "a%3Fb%3Dc"),
            ("a b%", "a%20b%25"),
            ("router@prod", "router@prod"),
            ("openai/ft:m::1", "openai/ft:m::1"),
        ],
    )
    def test_a_name_is_one_whatever_stands_in_it(self, name: str, path: str) -> None:
        client, script = scripted(reply({"id": name, "deleted": True}))
        client.models.delete(name)
        assert script.requests[0].url.raw_path.decode() == f"/v1/models/{path}"

    @pytest.mark.parametrize("name", ["", "..", "a/../b", "./a"])
    def test_what_is_none_is_not_sent(self, name: str) -> None:
        client, script = scripted(reply())
        for ask in (client.datasets.delete, client.compile_jobs.cancel, client.aliases.retrieve):
            with pytest.raises(stillhouse.InvalidName, match="is no id or name"):
                ask(name)
        assert script.requests == []


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "name"),
        [
            (400, "BadRequestError"),
            (401, "AuthenticationError"),
            (403, "PermissionDeniedError"),
            (404, "NotFoundError"),
            (409, "ConflictError"),
            (412, "PreconditionFailedError"),
            (413, "BodyTooLargeError"),
            (415, "UnsupportedMediaTypeError"),
            (422, "UnprocessableEntityError"),
            (429, "RateLimitError"),
            (500, "ServerError"),
            (503, "ServiceUnavailableError"),
            (418, "APIStatusError"),
        ],
    )
    def test_one_class_a_status(self, status: int, name: str) -> None:
        client, _ = scripted(reply(ERROR, status), max_retries=0)
        with pytest.raises(stillhouse.APIStatusError) as raised:
            client.me()
        assert type(raised.value).__name__ == name

    def test_all_fields_are_there(self) -> None:
        client, _ = scripted(reply(ERROR, 422, x_request_id="req-1"))
        with pytest.raises(UnprocessableEntityError) as raised:
            client.me()
        error = raised.value
        assert (error.code, error.param, error.request_id) == ("invalid_rows", "trainset[2].message", "req-1")
        assert error.details[0]["row"] == 3
        assert "Row 3 lacks" in str(error)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}'])
    def test_a_body_that_is_not_ours(self, body: bytes) -> None:
        client, _ = scripted(httpx.Response(502, content=body), max_retries=0)
        with pytest.raises(ServerError):
            client.me()


class TestTolerance:
    def test_unknown_fields_and_words_are_kept(self) -> None:
        client, _ = scripted(reply(job("hibernating", steps=[{"name": "dream", "status": "lucid", "new": 1}], surprise={"a": 1})))
        got = client.compile_jobs.retrieve("cjob-1")
        assert (got.status, got.is_final, got.steps[0].name) == ("hibernating", False, "dream")
        assert got.surprise == {"a": 1}  # type: ignore[attr-defined]


class TestPaging:
    def test_iterating_asks_for_every_page(self) -> None:
        def page(request: httpx.Request) -> httpx.Response:
            start = int(request.url.params.get("after", 0))
            data = [job(id=str(number)) | {"id": str(number)} for number in range(start + 1, start + 3)]
            return reply({"data": data, "has_more": start < 4, "last_id": data[-1]["id"]})

        client, script = scripted(page)
        listed = client.compile_jobs.list(limit=2, status="running", metadata={"sha": "1"})
        assert [one.id for one in listed.data] == ["1", "2"]
        assert [one.id for one in listed] == ["1", "2", "3", "4", "5", "6"]
        assert len(script.requests) == 3
        assert script.requests[2].url.params["metadata[sha]"] == "1"
        assert script.requests[2].url.params["after"] == "4"


class TestDatasets:
    def test_a_csv_is_sent_as_it_is(self, tmp_path: Any) -> None:
        (tmp_path / "train.csv").write_bytes(b"a\n1\n")
        client, script = scripted(reply({"id": "ds-1", "rows": 1}, 201))
        client.datasets.create(tmp_path / "train.csv", name="t")
        assert script.requests[0].headers["content-type"] == "text/csv"
        assert script.requests[0].content == b"a\n1\n"
        assert script.requests[0].url.params["name"] == "t"

    def test_values_of_rows_become_json(self) -> None:
        client, script = scripted(reply({"id": "ds-1", "rows": 1}, 201))
        row = {"zeta": date(2026, 1, 2), "b": Tone.WARM, "tags": ("x", "y"), "picture": dspy.Image("https://images.test/a.png")}
        client.datasets.create([dspy.Example(row), {"b": {"zeta": 1, "a": dspy.History(messages=[{"q": "1"}])}}])
        rows = json.loads(script.requests[0].content)["rows"]
        assert rows[0] == {"zeta": "2026-01-02", "b": "warm", "tags": ["x", "y"], "picture": {"url": "https://images.test/a.png"}}
        assert json.dumps(rows[1]) == '{"b": {"zeta": 1, "a": {"messages": [{"q": "1"}]}}}'

    def test_rows_are_sent_as_json(self) -> None:
        client, script = scripted(reply({"id": "ds-1", "rows": 1}, 201))
        client.datasets.create([{"a": 1}])
        assert json.loads(script.requests[0].content) == {"rows": [{"a": 1}]}


class TestAsync:
    def test_same_calls_awaited(self) -> None:
        async def go() -> None:
            client, script = scripted_async(reply(job(), 201), reply(ERROR, 409))
            async with client:
                assert (await client.compile_jobs.create(program="prog-1", trainset="ds-1")).id == "cjob-1"
                with pytest.raises(ConflictError):
                    await client.compile_jobs.start("cjob-1")
            assert [request.url.path for request in script.requests] == ["/v1/compile_jobs", "/v1/compile_jobs/cjob-1/start"]

        asyncio.run(go())

    def test_both_clients_offer_the_same(self) -> None:
        client, _ = scripted(reply())
        other, _ = scripted_async(reply())
        for noun in ("compile_jobs", "programs", "datasets", "artifacts", "models"):
            one, two = ({name for name in dir(getattr(each, noun)) if not name.startswith("_")} for each in (client, other))
            assert one == two, noun


class TestUpload:
    def test_a_file_is_read_anew_at_each_try_and_shown_while_it_goes_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' * 50_000)
        client, script = scripted(reply(status=503), reply({"id": "ds-1", "rows": 50_000}, 201))
        assert client.datasets.create(tmp_path / "rows.jsonl", progress=True).rows == 50_000
        assert {request.content for request in script.requests} == {(tmp_path / "rows.jsonl").read_bytes()}
        assert {request.headers["content-length"] for request in script.requests} == {"450000"}
        assert capsys.readouterr().err == "rows.jsonl: 450000 bytes sent\n"

    def test_async(self, tmp_path: Path) -> None:
        async def go() -> bytes:
            client, script = scripted_async(reply({"id": "ds-1", "rows": 1}, 201))
            async with client:
                await client.datasets.create(tmp_path / "rows.csv")
            return script.requests[0].content

        (tmp_path / "rows.csv").write_text("a\n1\n")
        assert asyncio.run(go()) == b"a\n1\n"
