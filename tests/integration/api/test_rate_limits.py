"""How often a key may ask, over all processes, and while Redis is away."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens


@pytest.fixture
def strict(tokens: Tokens, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests a minute."""
    monkeypatch.setenv("STILLHOUSE_LIMITS__REQUESTS_PER_MINUTE", "3")
    get_settings.cache_clear()


def statuses(client: TestClient, token: str, times: int) -> list[int]:
    return [client.get("/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code for _ in range(times)]


class TestRate:
    def test_a_key_that_asks_too_often_is_told_when_to_ask_again(self, strict: None, tokens: Tokens) -> None:
        with TestClient(create_app()) as client:
            assert statuses(client, tokens.read, 3) == [200, 200, 200]
            refused = client.get("/v1/me", headers={"Authorization": f"Bearer {tokens.read}"})
            error = refused.json()["error"]
            assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert statuses(client, tokens.use, 1) == [200]

    def test_it_is_counted_over_all_processes(self, strict: None, tokens: Tokens) -> None:
        with TestClient(create_app()) as one, TestClient(create_app()) as other:
            assert statuses(one, tokens.read, 2) + statuses(other, tokens.read, 2) == [200, 200, 200, 429]

    def test_while_redis_is_away_each_process_counts_alone(self, strict: None, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
        get_settings.cache_clear()
        with TestClient(create_app()) as one, TestClient(create_app()) as other:
            assert statuses(one, tokens.read, 4) == [200, 200, 200, 429]
            assert statuses(other, tokens.read, 1) == [200]
