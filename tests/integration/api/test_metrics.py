"""Metrics over HTTP, the SDK and the command line: stored once, taken by jobs by id, tried on answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from stillhouse import AsyncStillhouse, Stillhouse
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, Run, Tokens, fault, job_body

SPEC = {"type": "exact_match", "fields": ["category"]}
PAIRS: dict[str, Any] = {
    "examples": [*ROWS[:2], {"message": "Hello?"}],
    "predictions": [{"category": "billing"}, {"category": "billing"}, {"category": "other"}],
}


def stored(api: TestClient, spec: Any = SPEC, **more: Any) -> dict[str, Any]:
    reply = api.post("/v1/metrics", json={"spec": spec, **more})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


class TestStore:
    def test_one_project_holds_a_spec_once(self, api: TestClient) -> None:
        made = stored(api, "exact_match", name="all-right", metadata={"team": "a"})
        assert made["id"].startswith("metric-")
        assert (made["object"], made["name"], made["metadata"]) == ("metric", "all-right", {"team": "a"})
        assert made["spec"] == {"type": "exact_match", "fields": None}
        assert made["created_by"] == api.get("/v1/me").json()["key_id"]
        assert stored(api, {"type": "exact_match"})["id"] == made["id"]
        other = stored(api)
        assert other["digest"] != made["digest"]
        assert [one["id"] for one in api.get("/v1/metrics").json()["data"]] == [other["id"], made["id"]]
        assert api.get(f"/v1/metrics/{made['id']}").json() == made

    def test_a_deleted_one_comes_back_under_its_id(self, api: TestClient) -> None:
        metric = stored(api)["id"]
        job = api.post("/v1/compile_jobs", json=job_body(metric=metric, auto_start=False)).json()
        assert api.delete(f"/v1/metrics/{metric}").json() == {"id": metric, "object": "metric", "deleted": True}
        assert api.get(f"/v1/metrics/{metric}").status_code == 404
        assert api.get(f"/v1/compile_jobs/{job['id']}").json()["metric"] == SPEC
        assert fault(api.post("/v1/compile_jobs", json=job_body(metric=metric)))[:2] == ("metric_not_found", "metric")
        assert stored(api)["id"] == metric

    def test_the_same_key_gets_the_same_reply(self, api: TestClient) -> None:
        replies = [api.post("/v1/metrics", json={"spec": SPEC}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert replies[0].json() == replies[1].json()
        assert replies[1].headers["idempotent-replayed"] == "true"

    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({"spec": "exakt_match"}, "spec.type", "spec.type: unknown metric `exakt_match`"),
            ({"spec": {"type": "f1", "fields": ["a"]}}, "spec.fields", "did you mean `field`"),
            ({"spec": SPEC, "nam": "x"}, "nam", 'did you mean "name"'),
            ({"spec": {"type": "client", "source": "0" * 64}}, "spec.type", "name it in the job"),
        ],
    )
    def test_what_is_wrong_is_named(self, api: TestClient, body: dict[str, Any], param: str, message: str) -> None:
        found = fault(api.post("/v1/metrics", json=body))
        assert found[1] == param
        assert message in found[2]


class TestWho:
    def test_another_project_does_not_find_it(self, api: TestClient, tokens: Tokens) -> None:
        metric = stored(api)["id"]
        other = {"Authorization": f"Bearer {tokens.other}"}
        assert api.get(f"/v1/metrics/{metric}", headers=other).status_code == 404
        assert api.delete(f"/v1/metrics/{metric}", headers=other).status_code == 404
        assert api.post(f"/v1/metrics/{metric}/try", json=PAIRS, headers=other).status_code == 404
        assert api.get("/v1/metrics", headers=other).json()["data"] == []
        assert fault(api.post("/v1/compile_jobs", json=job_body(metric=metric), headers=other))[:2] == ("metric_not_found", "metric")

    def test_who_may_read_alone_stores_tries_and_deletes_none(self, api: TestClient, tokens: Tokens) -> None:
        metric = stored(api)["id"]
        reader = {"Authorization": f"Bearer {tokens.read}"}
        assert api.get(f"/v1/metrics/{metric}", headers=reader).status_code == 200
        assert api.post("/v1/metrics", json={"spec": SPEC}, headers=reader).status_code == 403
        assert api.post(f"/v1/metrics/{metric}/try", json=PAIRS, headers=reader).status_code == 403
        assert api.delete(f"/v1/metrics/{metric}", headers=reader).status_code == 403


class TestJobs:
    @pytest.mark.parametrize("spec", ["exact_match", SPEC, {"type": "f1", "field": "category"}])
    def test_by_id_it_is_the_same_job(self, api: TestClient, spec: Any) -> None:
        metric = stored(api, spec)["id"]
        for path in ("/v1/compile_jobs", "/v1/compile_jobs?dry_run=true"):
            replies = [api.post(path, json=job_body(metric=given, auto_start=False)) for given in (metric, spec)]
            by_id, inline = (reply.json().get("job") or reply.json() for reply in replies)
            assert by_id["metric"] == inline["metric"]
            assert by_id["spec_digest"] == inline["spec_digest"]

    def test_an_estimate_takes_it(self, api: TestClient) -> None:
        metric = stored(api)["id"]
        assert api.post("/v1/compile_jobs/estimate", json=job_body(metric=metric)).status_code == 200


class TestTry:
    def test_each_pair_has_its_value_or_its_error(self, api: TestClient) -> None:
        metric = stored(api)["id"]
        reply = api.post(f"/v1/metrics/{metric}/try", json=PAIRS)
        assert reply.status_code == 200, reply.text
        assert (reply.json()["object"], reply.json()["metric"]) == ("metric.try", metric)
        assert reply.json()["data"] == [
            {"value": 1.0, "status": "ok", "feedback": None, "error": None},
            {"value": 0.0, "status": "ok", "feedback": None, "error": None},
            {"value": None, "status": "failed", "feedback": None, "error": "NoLabel: the row has no label `category`"},
        ]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"examples": [], "predictions": []}, "at least 1 item"),
            ({"examples": ROWS, "predictions": [{"category": "billing"}]}, "give as many of the one as of the other"),
            ({"examples": [ROWS[0]] * 21, "predictions": [{"category": "billing"}] * 21}, "at most 20 items"),
            ({**PAIRS, "prediction": []}, "unknown field `prediction`"),
        ],
    )
    def test_what_is_no_list_of_pairs_is_refused(self, api: TestClient, body: dict[str, Any], message: str) -> None:
        assert message in fault(api.post(f"/v1/metrics/{stored(api)['id']}/try", json=body))[2]


class TestClients:
    def test_the_sdk(self, address: str, tokens: Tokens) -> None:
        with Stillhouse(address, tokens.all) as client:
            metric = client.metrics.create(SPEC, name="right")
            assert (client.metrics.retrieve(metric.id).spec, [one.id for one in client.metrics.list()]) == (SPEC, [metric.id])
            assert [pair.value for pair in client.metrics.try_(metric.id, **PAIRS).data] == [1.0, 0.0, None]

        async def go() -> list[Any]:
            async with AsyncStillhouse(address, tokens.all) as other:
                made = await other.metrics.create(SPEC)
                tried = await other.metrics.try_(made.id, **PAIRS)
                found = [made.id, (await other.metrics.retrieve(made.id)).id, [pair.value for pair in tried.data]]
                await other.metrics.delete(made.id)
                return [*found, [one async for one in await other.metrics.list()]]

        assert asyncio.run(go()) == [metric.id, metric.id, [1.0, 0.0, None], []]

    def test_the_command_line(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "metric.yaml").write_text("type: exact_match\nfields: [category]\n")
        for name, rows in PAIRS.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        made = json.loads(known("metrics", "create", "metric.yaml", "--name", "right", "--json").stdout)
        assert json.loads(known("metrics", "create", "exact_match", "--json").stdout)["id"] != made["id"]
        assert "right" in known("metrics", "list").stdout
        assert json.loads(known("metrics", "get", made["id"], "--json").stdout)["spec"] == SPEC
        tried = known("metrics", "try", made["id"], "examples.json", "predictions.json")
        assert (tried.exit_code, "NoLabel" in tried.stdout) == (Exit.OK, True)
        asked = known("metrics", "try", made["id"], "examples.json", "predictions.json", "--json")
        assert [pair["value"] for pair in json.loads(asked.stdout)["data"]] == [1.0, 0.0, None]
        assert "deleted" in known("metrics", "delete", made["id"]).stdout
        assert known("metrics", "get", made["id"]).exit_code == Exit.FAILED
