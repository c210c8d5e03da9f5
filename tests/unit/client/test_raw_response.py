"""`with_raw_response`: the same methods, with what came around their reply."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from stillhouse import AsyncStillhouse, NotFoundError, Stillhouse, UnexpectedReply
from stillhouse.resources.base import AsyncResource, Resource
from tests.unit.client.conftest import job, reply, scripted, scripted_async

ARGUMENTS: dict[str, Any] = {"item": SimpleNamespace(id="item-1", fence=1), "rows": [], "inputs": {}, "events": [], "path": __file__}


def resources(client: Stillhouse | AsyncStillhouse) -> Iterator[Resource | AsyncResource]:
    """Those of the client, and those of its resources."""
    found = [value for value in vars(client).values() if isinstance(value, (Resource, AsyncResource))]
    yield from found
    yield from (part for each in found for part in vars(each).values() if isinstance(part, (Resource, AsyncResource)))


def methods(resource: Resource | AsyncResource) -> list[str]:
    return [name for name, _ in inspect.getmembers(resource, inspect.ismethod) if not name.startswith("_")]


def arguments(method: Any) -> dict[str, Any]:
    """Something for each that must be given."""
    needed = [
        each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty and each.kind != each.VAR_KEYWORD
    ]
    return {name: ARGUMENTS.get(name, "x") for name in needed}


class TestOneReply:
    def test_status_headers_and_request_id_stand_beside_the_object(self) -> None:
        client, _ = scripted(reply(job(), 201, x_request_id="req-1", idempotent_replayed="true"))
        raw = client.compile_jobs.with_raw_response.create(program="prog-1", trainset="ds-1")
        assert (raw.status_code, raw.request_id, raw.headers["idempotent-replayed"]) == (201, "req-1", "true")
        assert raw.parse() == client.compile_jobs.create(program="prog-1", trainset="ds-1")
        assert raw.http_response.json() == job()

    def test_it_is_the_one_that_answered_after_retries(self) -> None:
        client, script = scripted(reply(status=503, x_request_id="req-1"), reply(job(), x_request_id="req-2"))
        assert client.compile_jobs.with_raw_response.retrieve("cjob-1").request_id == "req-2"
        assert len(script.requests) == 2

    def test_a_page_reads_on(self) -> None:
        client, _ = scripted(
            reply({"data": [job()], "has_more": True, "last_id": "cjob-1"}, x_request_id="req-1"),
            reply({"data": [job() | {"id": "cjob-2"}], "has_more": False, "last_id": "cjob-2"}, x_request_id="req-2"),
        )
        raw = client.compile_jobs.with_raw_response.list(limit=1)
        assert [one.id for one in raw.parse()] == ["cjob-1", "cjob-2"]
        assert raw.request_id == "req-1"

    def test_two_at_once_keep_their_own(self) -> None:
        async def go() -> list[str | None]:
            client, _ = scripted_async(lambda request: reply(job(), x_request_id=request.url.path))
            async with client:
                get = client.compile_jobs.with_raw_response.retrieve
                return [raw.request_id for raw in await asyncio.gather(get("cjob-1"), get("cjob-2"))]

        assert asyncio.run(go()) == ["/v1/compile_jobs/cjob-1", "/v1/compile_jobs/cjob-2"]

    def test_a_refusal_is_raised(self) -> None:
        client, _ = scripted(reply({"error": {"message": "no such job"}}, 404))
        with pytest.raises(NotFoundError):
            client.compile_jobs.with_raw_response.retrieve("cjob-1")


class TestEveryMethod:
    def test_sends_one_request_or_says_that_it_has_no_raw_response(self) -> None:
        client, script = scripted(reply({"surprise": True}))
        for resource in resources(client):
            raw = resource.with_raw_response
            for name in methods(resource):
                script.requests.clear()
                if name not in dir(raw):
                    with pytest.raises(AttributeError, match=f"{type(resource).__name__}.{name} has no raw response"):
                        getattr(raw, name)
                    continue
                with suppress(UnexpectedReply):  # none of our objects: how many requests went out is the question
                    getattr(raw, name)(**arguments(getattr(resource, name)))
                assert len(script.requests) == 1, (resource, name)

    def test_of_both_clients_the_same(self) -> None:
        clients: list[Stillhouse | AsyncStillhouse] = [scripted(reply())[0], scripted_async(reply())[0]]
        one, two = ({(type(each).__name__.removeprefix("Async"), *dir(each.with_raw_response)) for each in resources(of)} for of in clients)
        assert one == two
        assert len(one) == 23

    def test_what_has_none_is_named(self) -> None:
        client, _ = scripted(reply())
        without = {
            f"{type(each).__name__}.{name}" for each in resources(client) for name in set(methods(each)) - set(dir(each.with_raw_response))
        }
        assert without == {
            "Artifacts.download", "Chat.stream", "CompileJobs.cancel_all", "CompileJobs.download_training_file",
            "CompileJobs.training_records", "CompileJobs.wait", "Events.stream", "Files.download", "Scores.create", "Traces.create",
        }  # fmt: skip
