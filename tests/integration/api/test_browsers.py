"""What a browser can be made to do to a server that only its own network reaches."""

from __future__ import annotations

import os
import subprocess

import httpx
import pytest
from starlette.testclient import TestClient

from app.browser import LOOPBACK, names_of
from app.main import create_app
from distill.settings import get_settings
from stack.network import answers, free_port
from stack.plan import api_command
from tests.integration.api.conftest import Tokens
from tests.support.databases import forget_settings
from tests.support.server_process import wait_until


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
        assert names_of([], "127.0.0.1") == LOOPBACK
        assert names_of([], "::1") == LOOPBACK
        assert names_of([], "0.0.0.0") is None
        assert "stillhouse.internal" in (names_of(["Stillhouse.internal"], "0.0.0.0") or ())

    def test_one_that_other_machines_reach_takes_any_name_unless_told(self, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it is bound to counts, not the setting that a command line overrode."""
        monkeypatch.delenv("STILLHOUSE_SERVER__HOSTS")
        forget_settings()
        assert get_settings().server.host == "127.0.0.1"
        with TestClient(create_app("0.0.0.0"), headers={"Authorization": f"Bearer {tokens.all}"}) as client:
            assert client.get("/v1/me", headers={"Host": "stillhouse.example.com"}).status_code == 200
        with TestClient(create_app("127.0.0.1"), headers={"Authorization": f"Bearer {tokens.all}"}) as client:
            assert client.get("/v1/me", headers={"Host": "stillhouse.example.com"}).status_code == 400

    @pytest.mark.slow
    def test_its_process_as_containers_start_it(self, tokens: Tokens, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STILLHOUSE_SERVER__HOSTS")
        port = free_port()
        with subprocess.Popen(api_command("0.0.0.0", port), env=os.environ, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the API is not ready")
                headers = {"Host": "stillhouse.example.com", "Authorization": f"Bearer {tokens.all}"}
                assert httpx.get(f"http://127.0.0.1:{port}/v1/me", headers=headers, timeout=30).status_code == 200
            finally:
                process.kill()


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
