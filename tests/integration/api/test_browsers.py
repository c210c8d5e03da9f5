"""What a browser can be made to do to a server that only its own network reaches."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.browser import LOOPBACK, names_of
from distill.settings import ServerSettings


class TestHost:
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8400", "", "localhost@evil.example"]
    )
    def test_another_name_is_refused_whatever_the_method(self, api: TestClient, method: str, host: str) -> None:
        reply = api.request(method, "/v1/me", headers={"Host": host})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unknown_host")
        assert reply.headers["x-request-id"]

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8400", "127.0.0.1:80", "[::1]:8400", "testserver"])
    def test_its_own_names_are_taken(self, api: TestClient, host: str) -> None:
        assert api.get("/v1/me", headers={"Host": host}).status_code == 200

    def test_the_names_of_a_server(self) -> None:
        assert names_of(ServerSettings(host="127.0.0.1")) == LOOPBACK
        assert names_of(ServerSettings(host="::1")) == LOOPBACK
        assert names_of(ServerSettings(host="0.0.0.0")) is None
        assert "stillhouse.internal" in (names_of(ServerSettings(host="0.0.0.0", hosts=["Stillhouse.internal"])) or ())


class TestHeaders:
    @pytest.mark.parametrize("path", ["/v1/me", "/livez", "/v1/nothing", "/docs", "/metrics"])
    def test_no_reply_is_run_framed_guessed_at_or_shared(self, api: TestClient, path: str) -> None:
        headers = api.get(path, headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control-")]

    def test_a_preflight_allows_nothing(self, api: TestClient) -> None:
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        reply = api.options("/v1/compile_jobs", headers=asked)
        assert reply.status_code == 405
        assert not [name for name in reply.headers if name.startswith("access-control-")]
