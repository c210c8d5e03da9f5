"""What every list is narrowed by: the time of creation, and metadata where its objects have any."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import build_routes
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body
from tests.integration.api.finished import finish
from tests.integration.core.world import execute

FAR = 2**33
OTHER = {"predictors": [{**SPEC["predictors"][0], "name": "other"}]}


def ids(api: TestClient, path: str, **params: str | int) -> list[str]:
    reply = api.get(path, params=params)
    assert reply.status_code == 200, reply.text
    return [one["id"] for one in reply.json()["data"]]


class TestMetadata:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/programs", {"spec": SPEC}),
            ("/v1/datasets", {"rows": ROWS}),
            ("/v1/metrics", {"spec": "exact_match"}),
            ("/v1/compile_jobs", job_body(auto_start=False)),
        ],
    )
    def test_only_objects_with_the_pair(self, api: TestClient, path: str, body: dict[str, Any]) -> None:
        other = {**body, "spec": {"type": "f1", "field": "a"} if "metrics" in path else OTHER} if "spec" in body else body
        api.post(path, json={**other, "metadata": {"team": "b", "week": "47"}})
        wanted = api.post(path, json={**body, "metadata": {"team": "a", "week": "47"}})
        assert wanted.status_code == 201, wanted.text
        assert ids(api, path, **{"metadata[team]": "a", "metadata[week]": "47"}) == [wanted.json()["id"]]
        assert len(ids(api, path, **{"metadata[week]": "47"})) == 2
        assert ids(api, path, **{"metadata[team]": "a", "metadata[week]": "48"}) == []

    def test_fine_tuning_jobs_by_what_they_are_shown_with(self, api: TestClient) -> None:
        parent = finish(api).job_id
        (child,) = api.get(f"/v1/compile_jobs/{parent}/fine_tuning_jobs").json()["data"]
        sent = api.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b"{}")}).json()["id"]
        body = {"model": "house/tiny", "training_file": sent, "metadata": {"team": "a"}}
        own = api.post("/v1/fine_tuning/jobs", json=body)
        assert own.status_code == 200, own.text
        path = "/v1/fine_tuning/jobs"
        assert ids(api, path, **{"metadata[team]": "a"}) == [own.json()["id"]]
        for name, value in child["metadata"].items():
            assert ids(api, path, **{f"metadata[{name}]": value}) == [child["id"]], name

    def test_artifacts_by_what_their_jobs_had(self, api: TestClient) -> None:
        made = finish(api, body=job_body(program_name="router", metadata={"git_sha": "9f1c2ab"}))
        api.patch(f"/v1/compile_jobs/{made.job_id}", json={"metadata": {"git_sha": "other"}})
        assert api.get(f"/v1/artifacts/{made.artifact_id}").json()["metadata"] == {"git_sha": "9f1c2ab"}
        assert ids(api, "/v1/artifacts", **{"metadata[git_sha]": "9f1c2ab"}) == [made.artifact_id]
        assert ids(api, "/v1/artifacts", **{"metadata[git_sha]": "other"}) == []

    def test_too_many_pairs(self, api: TestClient) -> None:
        pairs = {f"metadata[{number}]": "x" for number in range(17)}
        reply = api.get("/v1/programs", params=pairs)
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "metadata")


class TestCreatedAfter:
    def test_every_list_of_objects_takes_it(self, api: TestClient) -> None:
        paged = {
            path: {parameter["name"] for parameter in verbs["get"].get("parameters", ())}
            for path, verbs in build_routes().openapi()["paths"].items()
            if "get" in verbs and "{" not in path
        }
        lists = {path for path, names in paged.items() if "limit" in names}
        assert len(lists) >= 10
        assert {path for path in lists if "created_after" not in paged[path]} == set()

    def test_what_is_older_is_left_out(self, api: TestClient, tokens: Tokens) -> None:
        old = api.post("/v1/programs", json={"spec": OTHER}).json()["id"]
        execute("UPDATE programs SET created_at = to_timestamp(1000)")
        new = api.post("/v1/programs", json={"spec": SPEC}).json()["id"]
        assert ids(api, "/v1/programs", created_after=1000) == [new]
        assert ids(api, "/v1/programs", created_after=999, order="asc") == [old, new]
        assert ids(api, "/v1/programs", created_after=FAR) == []

    def test_it_goes_on_over_pages(self, api: TestClient) -> None:
        made = [api.post("/v1/datasets", json={"rows": ROWS}).json()["id"] for _ in range(3)]
        execute(f"UPDATE datasets SET created_at = to_timestamp(1000) WHERE id = '{made[0]}'")
        assert ids(api, "/v1/datasets", created_after=1000, limit=1) == [made[2]]
        assert ids(api, "/v1/datasets", created_after=1000, limit=5, after=made[2]) == [made[1]]
