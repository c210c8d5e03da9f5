"""Files, as openai-python sends, lists and deletes them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import openai
import pytest
from starlette.testclient import TestClient

from distill.catalog import blobs
from distill.db import unit_of_work
from distill.jobs import collecting
from distill.settings import get_settings
from distill.storage import open_store
from tests.integration.api.conftest import Tokens

ROWS = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'
PURPOSE = {"purpose": "fine-tune"}


def sent(content: bytes = ROWS, name: str = "train.jsonl") -> dict[str, tuple[str, bytes]]:
    return {"file": (name, content)}


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.all, max_retries=0) as made:
        yield made


class TestOpenAI:
    def test_sends_lists_reads_and_deletes(self, client: openai.OpenAI) -> None:
        first = client.files.create(file=("a.jsonl", ROWS), purpose="fine-tune")
        assert (first.object, first.bytes, first.filename) == ("file", len(ROWS), "a.jsonl")
        assert (first.purpose, first.status, first.id[:5]) == ("fine-tune", "processed", "file-")
        others = [client.files.create(file=(f"{name}.jsonl", ROWS), purpose="fine-tune").id for name in "bc"]
        assert [file.id for file in client.files.list(limit=2)] == [others[1], others[0], first.id]
        assert next(iter(client.files.list(order="asc", purpose="fine-tune"))).id == first.id
        assert list(client.files.list(purpose="batch")) == []
        assert client.files.retrieve(first.id) == first
        assert client.files.content(first.id).content == ROWS
        gone = client.files.delete(first.id)
        assert (gone.id, gone.object, gone.deleted) == (first.id, "file", True)
        for ask in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(first.id)

    def test_refusals_are_bad_requests(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            client.files.create(file=("a.jsonl", ROWS), purpose="batch")
        assert (raised.value.code, raised.value.param) == ("unsupported", "purpose")
        with pytest.raises(openai.BadRequestError) as raised:
            client.files.create(file=("a.jsonl", ROWS), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
        assert raised.value.param == "expires_after[anchor]"
        with pytest.raises(openai.BadRequestError):
            client.files.list(limit=0)


class TestForms:
    @pytest.mark.parametrize(("data", "param"), [({}, "purpose"), ({"purpose": "fine-tune", "purpos": "x"}, "purpos")])
    def test_fields_are_named(self, api: TestClient, data: dict[str, str], param: str) -> None:
        reply = api.post("/v1/files", files=sent(), data=data)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)

    def test_no_file(self, api: TestClient) -> None:
        reply = api.post("/v1/files", files={"other": ("a", b"")}, data=PURPOSE)
        assert (reply.status_code, reply.json()["error"]["code"], reply.json()["error"]["param"]) == (400, "missing_field", "file")

    def test_no_form(self, api: TestClient) -> None:
        assert api.post("/v1/files", json={"purpose": "fine-tune"}).status_code == 415

    def test_broken(self, api: TestClient) -> None:
        reply = api.post("/v1/files", content=b"--x\r\nno", headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert reply.status_code == 400

    def test_a_path_for_a_name(self, api: TestClient) -> None:
        assert api.post("/v1/files", files=sent(name="../../etc/a.jsonl"), data=PURPOSE).json()["filename"] == "a.jsonl"

    def test_the_same_key_makes_no_second_file(self, api: TestClient) -> None:
        key = {"Idempotency-Key": "once"}
        first, again = (api.post("/v1/files", files=sent(), data=PURPOSE, headers=key) for _ in range(2))
        assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
        other = api.post("/v1/files", files=sent(b"{}\n"), data=PURPOSE, headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")


class TestWhose:
    def test_another_projects_file_is_not_found(self, api: TestClient, tokens: Tokens) -> None:
        made = api.post("/v1/files", files=sent(), data=PURPOSE).json()["id"]
        stranger = {"Authorization": f"Bearer {tokens.other}"}
        assert api.get("/v1/files", headers=stranger).json()["data"] == []
        for verb, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert api.request(verb, f"/v1/files/{made}{path}", headers=stranger).status_code == 404

    def test_a_reader_may_not_send(self, api: TestClient, tokens: Tokens) -> None:
        reply = api.post("/v1/files", files=sent(), data=PURPOSE, headers={"Authorization": f"Bearer {tokens.read}"})
        assert reply.status_code == 403


class TestSize:
    def test_a_large_one_is_refused_before_it_is_sent(self, address: str, tokens: Tokens) -> None:
        """Nothing but the head of the request has gone out when the answer is there."""
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Authorization", f"Bearer {tokens.all}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(get_settings().limits.max_body_mb * 1_000_000 + 1))
        connection.endheaders()
        reply = connection.getresponse()
        assert (reply.status, json.load(reply)["error"]["code"]) == (413, "body_too_large")
        connection.close()


class TestBytes:
    def test_of_a_file_are_kept_and_of_a_deleted_one_are_not(self, api: TestClient) -> None:
        kept, gone = (api.post("/v1/files", files=sent(content), data=PURPOSE).json()["id"] for content in (b"kept", b"gone"))
        api.delete(f"/v1/files/{gone}")
        for _ in range(2):
            collecting.collect(open_store(get_settings()), 0, 0, threading.Event())
        assert api.get(f"/v1/files/{kept}/content").content == b"kept"
        with unit_of_work() as s:
            assert blobs.held(s)[0] == 1
