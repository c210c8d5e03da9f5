"""Bundles over HTTP: sent once, read by their own project alone, refused where they break a rule, kept while something needs them."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.catalog import blobs
from distill.db import unit_of_work
from distill.jobs import collecting
from distill.settings import get_settings
from distill.storage import open_store
from tests.integration.api.bundled import BUNDLE
from tests.integration.api.conftest import Tokens, fault
from tests.support.bundles import PYTHON

IDENTITY = "ab" * 32
DATA = base64.b64encode(b"no pickle").decode()


def stored(api: TestClient, **changes: Any) -> dict[str, Any]:
    reply = api.post("/v1/bundles", json={**BUNDLE, **changes})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


class TestSent:
    def test_what_is_known_of_it(self, api: TestClient) -> None:
        made = stored(api, packages={"numpy": "2.3.1"}, pickles={"program": {"makes": "program", "data": DATA}}, identity=IDENTITY)
        assert made["id"].startswith("bundle-")
        assert (made["object"], made["python"], made["modules"]) == ("bundle", PYTHON, ["desk", "desk.scores"])
        assert (made["packages"], made["pickles"], made["identity"]) == ({"numpy": "2.3.1"}, ["program"], IDENTITY)
        assert made["created_by"] == api.get("/v1/me").json()["key_id"]
        assert api.get(f"/v1/bundles/{made['id']}").json() == made

    def test_the_same_document_is_the_same_bundle_in_whatever_order(self, api: TestClient) -> None:
        made = stored(api)
        turned = dict(reversed(BUNDLE["files"].items()))
        assert stored(api, files=turned) == made
        other = stored(api, files={**BUNDLE["files"], "desk/more.py": ""})
        assert other["digest"] != made["digest"]
        assert [one["id"] for one in api.get("/v1/bundles").json()["data"]] == [other["id"], made["id"]]

    def test_it_is_found_by_what_its_client_calls_it(self, api: TestClient) -> None:
        stored(api)
        made = stored(api, identity=IDENTITY)
        assert [one["id"] for one in api.get("/v1/bundles", params={"identity": IDENTITY}).json()["data"]] == [made["id"]]
        assert api.get("/v1/bundles", params={"identity": "cd" * 32}).json()["data"] == []
        assert fault(api.get("/v1/bundles", params={"identity": "me"}))[1] == "identity"

    def test_the_same_key_gets_the_same_reply(self, api: TestClient) -> None:
        replies = [api.post("/v1/bundles", json=BUNDLE, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert replies[0].json() == replies[1].json()
        assert replies[1].headers["idempotent-replayed"] == "true"

    def test_its_text_comes_back_as_a_file(self, api: TestClient) -> None:
        made = stored(api, identity=IDENTITY)
        reply = api.get(f"/v1/bundles/{made['id']}/content")
        assert (reply.status_code, len(reply.content)) == (200, made["size"])
        assert reply.json() == {**BUNDLE, "identity": IDENTITY, "packages": {}, "pickles": {}}
        assert reply.headers["content-disposition"].startswith("attachment")


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "code", "param"),
        [
            ({"files": {"../a.py": ""}}, "invalid_bundle", "files"),
            ({"files": {"json.py": ""}}, "bundle_shadows", "files"),
            ({"files": {"a.txt": "x" * 4 * 1024 * 1024}}, "bundle_too_large", "files"),
            ({"pickles": {"program": {"makes": "tea", "data": DATA}}}, "invalid_value", "pickles.program.makes"),
            ({"modules": []}, "unknown_option", "modules"),
        ],
    )
    def test_the_place_is_named(self, api: TestClient, changes: dict[str, Any], code: str, param: str) -> None:
        assert fault(api.post("/v1/bundles", json={**BUNDLE, **changes}))[:2] == (code, param)

    def test_just_as_much_as_it_may_hold_is_taken(self, api: TestClient) -> None:
        assert stored(api, files={"a.txt": "x" * (4 * 1024 * 1024 - 1000)})["size"] <= 4 * 1024 * 1024

    def test_a_path_twice(self, api: TestClient) -> None:
        text = '{"bundle_version": 1, "python": "3.11", "files": {"a.py": "", "a.py": "x"}}'
        reply = api.post("/v1/bundles", content=text, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")

    def test_a_python_that_is_not_here(self, api: TestClient) -> None:
        code, param, message = fault(api.post("/v1/bundles", json={**BUNDLE, "python": "3.2"}))
        assert (code, param) == ("python_not_served", "python")
        assert message == f"the code is of Python 3.2, and this server runs programs under {PYTHON}"

    def test_packages_that_the_operator_does_not_allow_or_that_are_not_there(
        self, api: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needed = {"packages": {"pydantic": "2.3.1", "Typing_Extensions": "4", "sqlalchemy": "2.0"}}
        code, param, message = fault(api.post("/v1/bundles", json={**BUNDLE, **needed}))
        assert (code, param) == ("package_not_allowed", "packages")
        assert message == (
            "packages: code may import what dspy brings and what the operator allows; sqlalchemy is not among that "
            "(`packages` in [bundles] of stillhouse.toml)"
        )
        monkeypatch.setattr(get_settings().bundles, "packages", ["SQLAlchemy", "no-such-thing"])
        assert stored(api, **needed)["packages"] == needed["packages"]
        code, _, message = fault(api.post("/v1/bundles", json={**BUNDLE, "packages": {"no-such-thing": "1"}}))
        assert (code, "is allowed, but not installed where programs" in message) == ("package_not_installed", True)

    def test_all_of_them_where_the_operator_takes_none(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(get_settings().bundles, "accept", False)
        code, _, message = fault(api.post("/v1/bundles", json=BUNDLE))
        assert (code, "`accept` in [bundles]" in message) == ("bundles_not_accepted", True)


class TestWho:
    def test_another_project_does_not_find_it(self, api: TestClient, tokens: Tokens) -> None:
        bundle = stored(api, identity=IDENTITY)["id"]
        other = {"Authorization": f"Bearer {tokens.other}"}
        for path in (f"/v1/bundles/{bundle}", f"/v1/bundles/{bundle}/content"):
            assert api.get(path, headers=other).status_code == 404
        assert api.delete(f"/v1/bundles/{bundle}", headers=other).status_code == 404
        assert api.get("/v1/bundles", params={"identity": IDENTITY}, headers=other).json()["data"] == []

    def test_who_may_read_alone_sends_and_deletes_none(self, api: TestClient, tokens: Tokens) -> None:
        bundle = stored(api)["id"]
        reader = {"Authorization": f"Bearer {tokens.read}"}
        assert api.get(f"/v1/bundles/{bundle}/content", headers=reader).status_code == 200
        assert api.post("/v1/bundles", json=BUNDLE, headers=reader).status_code == 403
        assert api.delete(f"/v1/bundles/{bundle}", headers=reader).status_code == 403

    def test_who_uses_models_alone_reads_no_code(self, api: TestClient, tokens: Tokens) -> None:
        bundle = stored(api)["id"]
        assert api.get(f"/v1/bundles/{bundle}/content", headers={"Authorization": f"Bearer {tokens.use}"}).status_code == 403


class TestKept:
    def test_its_text_is_kept_until_it_is_deleted(self, api: TestClient) -> None:
        store, made = open_store(get_settings()), stored(api)
        collecting.collect(store, 0.0, 0.0, threading.Event())
        assert api.get(f"/v1/bundles/{made['id']}/content").status_code == 200
        assert api.delete(f"/v1/bundles/{made['id']}").json() == {"id": made["id"], "object": "bundle", "deleted": True}
        assert api.get(f"/v1/bundles/{made['id']}").status_code == 404
        collecting.collect(store, 0.0, 0.0, threading.Event())
        with unit_of_work() as s:
            assert blobs.held(s)[0] == 0
        assert stored(api)["id"] == made["id"]
        assert json.loads(api.get(f"/v1/bundles/{made['id']}/content").content)["files"] == BUNDLE["files"]
