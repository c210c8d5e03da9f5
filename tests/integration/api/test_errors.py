"""One shape for every error, and nothing of what was sent comes back."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from app.errors import OPENAI_SHAPED
from distill.settings import get_settings
from tests.integration.api.conftest import ROWS, SPEC, Tokens, fault, job_body
from tests.integration.api.every_route import NOBODYS, filled, operations
from tests.support.databases import forget_settings
from tests.support.server_process import wait_until

SECRET = "sk-do-not-repeat-me"


def error_of(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert {"message", "type", "code", "param", "request_id"} <= set(error)
    assert reply.headers["x-request-id"] == error["request_id"]
    return error


class TestJson:
    @pytest.mark.parametrize("body", [b"{", b'{"a": NaN}', b'{"a": 1e999}', b'"\\ud800"', b"[" * 5000, b"\xff"])
    def test_what_is_not_json_is_400(self, api: TestClient, body: bytes) -> None:
        error = error_of(api.post("/v1/compile_jobs", content=body, headers={"Content-Type": "application/json"}), 400)
        assert error["code"] == "invalid_json"

    def test_curl_default_content_type_is_taken_when_the_body_is_json(self, api: TestClient) -> None:
        reply = api.post("/v1/programs", content=json.dumps(SPEC), headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert reply.status_code == 201, reply.text

    @pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/xml"])
    def test_other_content_types_are_415_and_name_the_fix(self, api: TestClient, kind: str) -> None:
        error = error_of(api.post("/v1/programs", content=b"a=1", headers={"Content-Type": kind}), 415)
        assert "Content-Type: application/json" in error["message"]


class TestSize:
    def test_declared_and_undeclared_length(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        too_large = b" " * (get_settings().limits.max_body_mb * 1_000_000 + 1)
        declared = api.post("/v1/programs", content=too_large, headers={"Content-Type": "application/json"})
        assert error_of(declared, 413)["code"] == "body_too_large"
        chunks = (too_large[i : i + 1_000_000] for i in range(0, len(too_large), 1_000_000))
        chunked = api.post("/v1/programs", content=chunks, headers={"Content-Type": "application/json"})
        assert error_of(chunked, 413)["code"] == "body_too_large"


class TestNothingEchoed:
    @pytest.mark.parametrize(
        "body",
        [
            {"program": {"api_key": SECRET}, "trainset": ROWS},
            {"program": SECRET, "trainset": ROWS},
            job_body(seed=SECRET),
            job_body(lms={"student": {"temperature": SECRET}}),
            job_body(trainset=[SECRET]),
            job_body(trainset={"a": SECRET}),
            job_body(metric={"type": "exact_match", "secret": SECRET}),
            job_body(metadata={"a": [SECRET]}),
            job_body(api_key=SECRET),
            job_body(teacher=[{"lms": {"student": {"api_base": SECRET}}}]),
            job_body(train_options={"n_epochs": SECRET}),
            job_body(demos=SECRET),
            [SECRET],
            SECRET,
        ],
    )
    def test_a_refused_value_is_not_in_the_reply(self, api: TestClient, body: Any) -> None:
        reply = api.post("/v1/compile_jobs", json=body)
        error_of(reply, 422)
        assert SECRET not in reply.text

    def test_a_request_id_of_the_caller_is_kept_when_it_is_sane(self, api: TestClient) -> None:
        assert api.get("/v1/me", headers={"x-request-id": "ci-42"}).headers["x-request-id"] == "ci-42"
        assert api.get("/v1/me", headers={"x-request-id": "<script>"}).headers["x-request-id"].startswith("req-")


class TestPlaces:
    @pytest.mark.parametrize(
        ("changes", "code", "param"),
        [
            ({"programm": 1}, "unknown_option", "programm"),
            ({"train_options": {"n_epoch": 3}}, "unknown_option", "train_options.n_epoch"),
            ({"train_options": {"n_epochs": "three"}}, "invalid_value", "train_options.n_epochs"),
            ({"lms": {"student": {"conection": "house"}}}, "unknown_option", "lms.student.conection"),
            ({"lms": {"student": {"connection": "hous"}}}, "connection_not_found", "lms.student.connection"),
            ({"teacher": [{"lms": {"student": {"temperature": 9}}}]}, "invalid_value", "teacher[0].lms.student.temperature"),
            ({"trainset": "ds-nothing"}, "dataset_not_found", "trainset"),
            ({"trainset": []}, "empty_trainset", "trainset"),
            ({"program": "prog-nothing"}, "program_not_found", "program"),
            ({"program": {"predictors": []}}, "invalid_program", "program.predictors"),
            ({"metric": "exact_mach"}, "invalid_value", "metric.type"),
            ({"project": "elsewhere"}, "wrong_project", "project"),
            ({"filter": {"min_score": "high"}}, "invalid_value", "filter.min_score"),
            ({"evaluate": {"roles": ["winner"]}}, "invalid_value", "evaluate.roles[0]"),
            ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata"),
        ],
    )
    def test_code_and_param(self, api: TestClient, changes: dict[str, Any], code: str, param: str) -> None:
        error = error_of(api.post("/v1/compile_jobs", json=job_body(**changes)), 422)
        assert (error["code"], error["param"]) == (code, param), error

    def test_the_nearest_name_is_offered(self, api: TestClient) -> None:
        error = error_of(api.post("/v1/compile_jobs", json=job_body(num_thread=4)), 422)
        assert "num_threads" in error["message"]

    def test_a_missing_field(self, api: TestClient) -> None:
        error = error_of(api.post("/v1/compile_jobs", json={"program": SPEC}), 422)
        assert (error["code"], error["param"]) == ("missing_field", "trainset")

    def test_rows_are_named_with_their_fields(self, api: TestClient) -> None:
        rows = [*ROWS, {"category": "billing"}, {"message": "x", "category": "sales"}]
        error = error_of(api.post("/v1/compile_jobs", json=job_body(trainset=rows)), 422)
        assert error["code"] == "invalid_rows"
        assert error["param"] == "trainset[3].message"
        assert [(detail["row"], detail["field"]) for detail in error["details"]] == [(4, "message"), (5, "category")]

    def test_a_refused_job_stores_nothing(self, api: TestClient) -> None:
        error_of(api.post("/v1/compile_jobs", json=job_body(lms={"student": {"connection": "none"}})), 422)
        assert api.get("/v1/compile_jobs").json()["data"] == []
        assert api.get("/v1/programs").json()["data"] == []
        assert api.get("/v1/datasets").json()["data"] == []

    @pytest.mark.parametrize(("verb", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/me", 405)])
    def test_the_routers_own_refusals(self, api: TestClient, verb: str, path: str, status: int) -> None:
        error = error_of(api.request(verb, path), status)
        assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")

    @pytest.mark.parametrize("path", ["programs/%2F", "compile_jobs/x%2F", "fine_tuning/jobs/%2F", "models/%2F"])
    def test_a_slash_in_an_id(self, api: TestClient, path: str) -> None:
        error_of(api.get(f"/v1/{path}", follow_redirects=False), 404)

    def test_query_parameters(self, api: TestClient) -> None:
        error = error_of(api.get("/v1/compile_jobs?limit=1000"), 422)
        assert error["param"] == "limit"


class TestUnexpected:
    def test_a_crash_is_500_without_a_traceback(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        def crash(*_: object) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr("app.routes.serving.connections.list_connections", crash)
        reply = api.get("/v1/connections")
        error = error_of(reply, 500)
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert SECRET not in reply.text

    def test_a_database_that_is_away_is_503(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        api.get("/v1/me")
        monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://127.0.0.1:9/nothing")
        forget_settings()
        for path in ("/v1/me", "/readyz"):
            reply = api.get(path)
            error = error_of(reply, 503)
            assert (error["type"], error["code"]) == ("server_error", "database_unavailable")
            assert int(reply.headers["retry-after"]) > 0
        assert api.get("/livez").status_code == 200

    def test_a_client_that_leaves_is_no_fault_of_the_server(self, address: str, tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
        url = urlsplit(address)
        head = f"POST /v1/datasets HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {tokens.all}\r\n"
        with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
            connection.sendall(head.encode() + b"Content-Type: application/jsonl\r\nContent-Length: 1000\r\n\r\n{}\n")
        counted = 'stillhouse_http_requests_total{method="POST",route="/v1/datasets",status="499"} 1.0'
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {tokens.metrics}"}, timeout=30) as client:
            wait_until(lambda: counted in client.get("/metrics").text, "the request is counted")
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_bytes_that_are_no_http_are_a_400_and_one_line_in_the_log(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        """Also where the head was read, and its reply is under way while the body turns out to be none."""
        url = urlsplit(address)
        start = f"POST /v1/programs HTTP/1.1\r\nHost: {url.netloc}\r\n"
        wrong_host = "POST /v1/programs HTTP/1.1\r\nHost: elsewhere.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        for sent in ("no HTTP at all\r\n\r\n", f"{start}Transfer-Encoding: chunked\r\n\r\nzz\r\n", wrong_host):
            caplog.clear()
            with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
                connection.sendall(sent.encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 400 "), answer
            told = [record.message for record in caplog.records if record.levelname in {"WARNING", "ERROR", "CRITICAL"}]
            assert told == ["Invalid HTTP request received."], sent


class TestQueries:
    """A filter that is passed over lets everything through, so an unknown one is refused, by every route."""

    def test_a_parameter_that_no_route_declares(self, bare: TestClient, tokens: Tokens) -> None:
        bare.headers["Authorization"] = f"Bearer {tokens.admin}"
        passed_over = [
            (verb, path)
            for verb, path, _ in operations()
            if path.startswith("/v1/") and not path.startswith(OPENAI_SHAPED)
            if bare.request(verb, filled(path, NOBODYS), params={"no_such": "1"}, json={}).json()["error"]["code"] != "unknown_parameter"
        ]
        assert passed_over == []

    @pytest.mark.parametrize(
        ("path", "name", "said"),
        [
            ("/v1/audit_log?object=x", "object", 'unknown query parameter `object`; did you mean "object_id"?'),
            ("/v1/compile_jobs?stauts=failed", "stauts", 'unknown query parameter `stauts`; did you mean "status"?'),
            ("/v1/compile_jobs?metadata=x", "metadata", 'unknown query parameter `metadata`; did you mean "metadata[key]"?'),
        ],
    )
    def test_is_refused_with_the_nearest_name(self, bare: TestClient, tokens: Tokens, path: str, name: str, said: str) -> None:
        bare.headers["Authorization"] = f"Bearer {tokens.admin}"
        assert fault(bare.get(path)) == ("unknown_parameter", name, said)

    def test_openais_clients_may_send_others(self, api: TestClient) -> None:
        assert api.get("/v1/models?api-version=2026-01-01").status_code == 200

    def test_what_is_declared_is_taken(self, api: TestClient) -> None:
        assert api.get("/v1/compile_jobs?status=failed&limit=1&created_after=1&metadata[a]=b").status_code == 200
