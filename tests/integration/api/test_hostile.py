"""Whatever is sent, the answer is ours: never a 500, never without a request id, never slow to refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.integration.api.conftest import SPEC, job_body

TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["\0", "ds-x\0", "prog-", "exact_match", "student", "../..", "\u2028", "a" * 300]))
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
VALUE = st.recursive(SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=8)
FIELDS = sorted(job_body(lms=0, teacher=0, valset=0, holdout=0, filter=0, rollouts=0, budget=0, evaluate=0, metadata=0, seed=0,
                         prompt_adapter=0, train_options=0, num_threads=0, suffix=0, name=0, program_name=0))  # fmt: skip

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_answered(reply: Any) -> None:
    assert reply.status_code < 500, reply.text
    assert reply.headers["x-request-id"]
    if reply.status_code >= 400:
        assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]


class TestBodies:
    @SLOW
    @given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUE, min_size=1, max_size=2))
    def test_jobs(self, api: TestClient, changes: dict[str, Any]) -> None:
        assert_answered(api.post("/v1/compile_jobs", content=json.dumps(job_body(**changes)), headers={"Content-Type": "application/json"}))

    @SLOW
    @given(
        path=st.sampled_from(["/v1/programs", "/v1/datasets", "/v1/chat/completions", "/v1/artifacts/a/call", "/v1/programs/p/render"]),
        body=VALUE,
    )
    def test_others(self, api: TestClient, path: str, body: Any) -> None:
        assert_answered(api.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"}))

    @SLOW
    @given(
        body=st.binary(max_size=60),
        kind=st.sampled_from(["application/json", "text/csv", "application/jsonl", "multipart/form-data; boundary=x", "", "\x7f"]),
    )
    def test_bytes(self, api: TestClient, body: bytes, kind: str) -> None:
        for path in ("/v1/datasets", "/v1/compile_jobs"):
            assert_answered(api.post(path, content=body, headers={"Content-Type": kind}))

    def test_a_deep_spec(self, api: TestClient) -> None:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(300):
            schema = {"type": "array", "items": schema}
        spec = json.loads(json.dumps(SPEC))
        spec["predictors"][0]["signature"]["fields"][1]["schema"] = schema
        assert_answered(api.post("/v1/programs", json=spec))


class TestAddresses:
    @pytest.mark.parametrize("noun", ["compile_jobs", "programs", "datasets", "artifacts", "models", "fine_tuning/jobs"])
    @pytest.mark.parametrize("name", ["%00", "a%00b", "%ff", "..%2f..", "%F0%9F%98%80", "a" * 2000, "'", "%25", "x@v99999999999"])
    def test_ids(self, api: TestClient, noun: str, name: str) -> None:
        assert_answered(api.get(f"/v1/{noun}/{name}"))

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=x", "after=%00", "after=%ff", "order=up", "status=%00", "created_after=-1", "created_after=1099511627776",
        "metadata[a]=%00", "metadata[%00]=a",
         "created_by=%00", "program=%00", "step=%00"],
    )  # fmt: skip
    def test_queries(self, api: TestClient, query: str) -> None:
        api.post("/v1/compile_jobs", json=job_body())
        assert_answered(api.get(f"/v1/compile_jobs?{query}"))

    def test_a_job_named_with_nul(self, api: TestClient) -> None:
        reply = api.post("/v1/compile_jobs", json=job_body(name="a\0b"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_value")
