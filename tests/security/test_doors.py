"""Who is let in: keys, scopes, projects, names of the server, kinds of bodies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import serve
from app.main import build_routes
from distill.catalog import keys, projects
from distill.catalog.keys import OPERATORS_SCOPES
from distill.db import unit_of_work
from distill.errors import StartRefused
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body
from tests.integration.api.every_route import BODIES, NOBODYS, NOT_YET, OPERATED, filled, objects_of, operations
from tests.security.scopes import ANYBODY, who_may

OPEN = {"/livez", "/readyz", "/sign-in"}
HOOK = {"url": "https://example.com/hook", "events": ["compile_job.succeeded"]}


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Methods and paths, through routers that are included."""
    for route in found:
        if included := getattr(route, "original_router", None):
            yield from routes(included.routes)
        else:
            yield from ((method, route.path) for method in route.methods)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.record("CVE-2026-0545")
def test_every_route_of_the_application_needs_a_key(bare: TestClient) -> None:
    """Walks what is routed, not what is described: a route that was left out of the description is found too."""
    routed = set(routes(build_routes().routes))
    assert len(routed) > 80
    answers = {
        (verb, path): bare.request(verb, filled(path, NOBODYS), content=b"{not json").status_code
        for verb, path in routed
        if path not in OPEN
    }
    assert {asked: status for asked, status in answers.items() if status != 401} == {}


@pytest.mark.record("CVE-2024-4263")
class TestScopes:
    @pytest.mark.slow
    def test_each_scope_opens_its_own_routes_and_no_other(self, bare: TestClient, tokens: Tokens) -> None:
        """Every route and method that is routed, with a key of each scope alone."""
        with unit_of_work() as s:
            made = {
                scope: keys.create(s, projects.ensure(s, "default" if scope in OPERATORS_SCOPES else "support").id, scope, [scope])[1]
                for scope in ANYBODY
            }
        wrong = {}
        for verb, path in sorted(set(routes(build_routes().routes))):
            asked = {scope: bare.request(verb, filled(path, NOBODYS), json={}, headers=bearer(token)) for scope, token in made.items()}
            let_in = {scope for scope, reply in asked.items() if reply.status_code != 403}
            if let_in != who_may(verb, path):
                wrong[verb, path] = sorted(let_in)
        assert wrong == {}

    def test_another_projects_objects_are_not_there(self, api: TestClient, tokens: Tokens) -> None:
        """For a key of another project that may do everything there; the objects are as they were afterwards."""
        ids = objects_of(api, bearer(tokens.admin))
        named = [each for each in operations() if "{" in each[1] and each[2] not in OPERATED]
        assert len(named) > 60
        with unit_of_work() as s:
            other = bearer(keys.create(s, projects.ensure(s, "other").id, "all of it", sorted(ANYBODY - OPERATORS_SCOPES))[1])
            owner = bearer(keys.create(s, projects.ensure(s, "support").id, "all of it", sorted(ANYBODY - OPERATORS_SCOPES))[1])

        def found(headers: dict[str, str], *verbs: str) -> dict[tuple[str, str], int]:
            asked = [(verb, path, name) for verb, path, name in named if not verbs or verb in verbs]
            replies = {
                (verb, path): api.request(verb, filled(path, ids), json=BODIES.get(name, {}) if verb != "GET" else None, headers=headers)
                for verb, path, name in asked
                if name not in NOT_YET
            }
            return {asked: reply.status_code for asked, reply in replies.items()}

        before = found(owner, "GET")
        assert set(before.values()) == {200}, before
        assert {asked: status for asked, status in found(other).items() if status not in {404, 405}} == {}
        assert found(owner, "GET") == before


@pytest.mark.record("CVE-2023-48022")
def test_without_keys_no_other_machine_is_served(database: str) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(StartRefused):
            serve.check(host)


@pytest.mark.record("CVE-2025-62593")
def test_a_name_that_was_moved_to_this_address_is_refused(api: TestClient) -> None:
    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        assert api.request(verb, "/v1/compile_jobs", headers={"Host": "rebound.example"}).status_code == 400


@pytest.mark.record("CVE-2021-32677")
def test_json_in_a_type_that_a_form_can_send_is_refused(api: TestClient) -> None:
    for kind in ("text/plain", "text/plain; charset=utf-8", "multipart/form-data; boundary=x", "application/octet-stream", "text/json"):
        reply = api.post("/v1/compile_jobs", content=b'{"trainset": []}', headers={"Content-Type": kind})
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type"), kind


@pytest.mark.record("CVE-2023-6568")
def test_no_reply_is_a_page(api: TestClient, tokens: Tokens) -> None:
    markup = "<script>alert(1)</script>"
    ids = objects_of(api, bearer(tokens.admin))
    replies = [
        api.get(f"/v1/compile_jobs/{markup}"),
        api.post("/v1/compile_jobs", json={markup: 1}),
        api.post("/v1/datasets", content=b"x", headers={"Content-Type": "text/html"}),
        api.get(f"/v1/artifacts/{ids['artifact_id']}/files/README.md"),
        api.get(f"/v1/files/{ids['file_id']}/content"),
        api.get(f"/v1/datasets/{ids['dataset_id']}/rows"),
    ]
    for reply in replies:
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-type"].split(";")[0] in {"application/json", "application/octet-stream"}
    assert all(reply.headers["content-disposition"].startswith("attachment") for reply in replies[3:5])


@pytest.mark.record("CVE-2024-1561")
def test_nothing_is_looked_up_by_a_name_that_a_client_chose(api: TestClient) -> None:
    for name in ("__class__", "__init__", "mro", "os.system", "eval", "_run", "format"):
        for change in ({"metric": name}, {"metric": {"type": name}}, {"prompt_adapter": name}, {"demos": name}):
            assert api.post("/v1/compile_jobs", json=job_body(**change)).status_code == 422, change
        assert api.get(f"/v1/compile_jobs?order={name}").status_code == 422
        assert api.post("/v1/compile_jobs/x-1/" + name).status_code in {404, 405}
        spec = {**SPEC, "kind": name}
        assert api.post("/v1/programs", json=spec).status_code == 422
    assert api.post("/v1/datasets", json=ROWS).status_code == 201
