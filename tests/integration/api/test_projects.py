"""Projects: operators make them, and nobody sees another's objects, whatever the route."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens
from tests.integration.api.every_route import BODIES, NOT_YET, OPERATED, filled, objects_of, operations


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def admin_of(project: str) -> str:
    with unit_of_work() as s:
        return keys.create(s, projects.ensure(s, project).id, "test", ["admin"])[1]


@pytest.fixture
def operator(bare: TestClient) -> TestClient:
    bare.headers.update(bearer(admin_of("default")))
    return bare


class TestOperators:
    def test_they_make_a_project_and_its_first_key(self, operator: TestClient) -> None:
        project = operator.post("/v1/projects", json={"name": "vision", "metadata": {"team": "v"}}).json()
        assert (project["name"], project["metadata"]) == ("vision", {"team": "v"})
        key = operator.post("/v1/api_keys", json={"label": "first", "scopes": ["admin"], "project": "vision"}).json()
        me = operator.get("/v1/me", headers=bearer(key["token"])).json()
        assert (me["project_id"], me["key_id"]) == (project["id"], key["id"])
        assert project["id"] in {one["id"] for one in operator.get("/v1/projects").json()["data"]}

    def test_a_name_is_taken_once(self, operator: TestClient) -> None:
        assert operator.post("/v1/projects", json={"name": "vision"}, headers={"Idempotency-Key": "a"}).status_code == 201
        again = operator.post("/v1/projects", json={"name": "vision"}, headers={"Idempotency-Key": "a"})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        taken = operator.post("/v1/projects", json={"name": "vision"})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")

    def test_who_made_a_project_of_the_settings_is_said(self, operator: TestClient, tmp_path: Path) -> None:
        with (tmp_path / "stillhouse.toml").open("a", encoding="utf-8") as file:
            file.write("[projects.alpha]\nshare = 2\n")
        get_settings.cache_clear()
        with unit_of_work() as s:
            projects.sync(s, get_settings())
        taken = operator.post("/v1/projects", json={"name": "alpha"})
        assert "[projects.alpha] of the settings makes it" in taken.json()["error"]["message"]

    def test_a_key_of_no_project_is_refused(self, operator: TestClient) -> None:
        reply = operator.post("/v1/api_keys", json={"label": "first", "project": "none"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "project_not_found")


class TestOthers:
    def test_an_admin_of_another_project_makes_none(self, bare: TestClient, tokens: Tokens) -> None:
        reply = bare.post("/v1/projects", json={"name": "vision"}, headers=bearer(tokens.admin))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "not_an_operator")
        key = bare.post("/v1/api_keys", json={"label": "mine", "project": "other"}, headers=bearer(tokens.admin))
        assert (key.status_code, key.json()["error"]["code"]) == (422, "wrong_project")

    def test_they_see_their_own_alone(self, api: TestClient) -> None:
        assert [one["name"] for one in api.get("/v1/projects").json()["data"]] == ["support"]
        assert api.get("/v1/projects/support").json()["name"] == "support"
        assert api.get("/v1/projects/other").status_code == 404
        assert api.get("/v1/projects/none").json()["error"]["code"] == "project_not_found"


@pytest.fixture
def owned(api: TestClient) -> dict[str, str]:
    return objects_of(api, bearer(admin_of("support")))


class TestAllRoutes:
    def test_another_projects_ids_are_not_found(self, api: TestClient, owned: dict[str, str]) -> None:
        """Every operation with an id in its path, asked by an admin of another project, who lacks no scope."""
        stranger = bearer(admin_of("other"))
        own = bearer(admin_of("support"))
        strange: dict[str, int] = {}
        for verb, template, name in operations():
            if "{" not in template or name in OPERATED:
                continue
            path = filled(template, owned)
            reply = api.request(verb, path, json=BODIES.get(name), headers=stranger)
            if reply.status_code != 404:
                strange[f"{verb} {path}"] = reply.status_code
            if verb == "GET" and name not in NOT_YET:
                assert api.get(path, headers=own).status_code != 404, path
        assert strange == {}

    def test_nor_do_lists_show_them(self, api: TestClient, owned: dict[str, str]) -> None:
        stranger = bearer(admin_of("other"))
        ids = set(owned.values()) - {"manifest.json", "support"}
        for verb, template, _ in operations():
            if verb == "GET" and "{" not in template and template.startswith("/v1/"):
                text = api.get(template, headers=stranger).text
                assert not [one for one in ids if one in text], template
