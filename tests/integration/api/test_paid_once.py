"""The same Idempotency-Key asks an LM once: chat completions and calls of compiled programs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens, serving
from tests.integration.api.finished import finish, load
from tests.integration.core.world import execute
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

KEY = {"Idempotency-Key": "weekly-2026-w47"}
CHAT = "/v1/chat/completions"


@dataclass
class Script:
    """Says what its number is; `held` makes it wait until the test lets it go."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    held: bool = False
    number: int = 0

    def __call__(self, ask: Ask) -> Answer:
        self.number += 1
        self.begun.set()
        if self.held:
            assert self.go.wait(60)
        return {"category": "billing"} if ask.outputs else f"answer {self.number}"


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def lm(script: Script) -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=script) as server:
        yield server


@pytest.fixture
def lm_url(lm: ScriptedLM) -> str:
    return lm.url


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "house/tiny", "messages": [{"role": "user", "content": text}], **more}


class TestChat:
    def test_the_same_request_gets_the_same_answer_and_is_paid_once(self, api: TestClient, lm: ScriptedLM) -> None:
        first, second = (api.post(CHAT, json=chat(), headers=KEY) for _ in range(2))
        assert first.json()["choices"][0]["message"]["content"] == "answer 1"
        assert (second.status_code, second.content) == (200, first.content)
        assert (second.headers["content-type"], second.headers["idempotent-replayed"]) == (first.headers["content-type"], "true")
        assert "idempotent-replayed" not in first.headers
        assert len(lm.calls) == 1

    def test_without_a_key_each_is_asked(self, api: TestClient, lm: ScriptedLM) -> None:
        assert [api.post(CHAT, json=chat()).status_code for _ in range(2)] == [200, 200]
        assert len(lm.calls) == 2

    def test_another_body_is_refused(self, api: TestClient, lm: ScriptedLM) -> None:
        api.post(CHAT, json=chat(), headers=KEY)
        reply = api.post(CHAT, json=chat("another"), headers=KEY)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "idempotency_key_reused")
        assert len(lm.calls) == 1

    def test_a_key_is_of_one_project(self, api: TestClient, tokens: Tokens, lm: ScriptedLM) -> None:
        api.post(CHAT, json=chat(), headers=KEY)
        other = api.post(CHAT, json=chat(), headers={**KEY, "Authorization": f"Bearer {tokens.other}"})
        assert "idempotent-replayed" not in other.headers
        assert len(lm.calls) == 2

    def test_a_request_that_failed_may_be_repeated_with_the_key(self, api: TestClient, lm: ScriptedLM) -> None:
        lm.fault = Fail(400, message="no such option")
        assert api.post(CHAT, json=chat(), headers=KEY).status_code == 400
        lm.fault = None
        again = api.post(CHAT, json=chat(), headers=KEY)
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)

    def test_after_two_days_a_key_is_new(self, api: TestClient, lm: ScriptedLM) -> None:
        api.post(CHAT, json=chat(), headers=KEY)
        execute("UPDATE idempotency_keys SET created_at = clock_timestamp() - interval '48 hours 1 minute'")
        assert api.post(CHAT, json=chat("another"), headers=KEY).status_code == 200
        assert len(lm.calls) == 2

    def test_a_stream_is_asked_each_time(self, api: TestClient, lm: ScriptedLM) -> None:
        replies = [api.post(CHAT, json=chat(stream=True), headers=KEY) for _ in range(2)]
        assert all(reply.text.rstrip().endswith("[DONE]") for reply in replies)
        assert len(lm.calls) == 2

    def test_while_the_first_runs_the_second_is_told_to_wait(self, address: str, tokens: Tokens, script: Script, lm: ScriptedLM) -> None:
        script.held = True
        headers = {**KEY, "Authorization": f"Bearer {tokens.all}"}

        def send() -> httpx.Response:
            return httpx.post(f"{address}{CHAT}", json=chat(), headers=headers, timeout=60)

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(send)
            assert script.begun.wait(60)
            second = send()
            script.go.set()
            assert first.result().status_code == 200
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_in_progress")
        assert int(second.headers["retry-after"]) > 0
        assert send().headers["idempotent-replayed"] == "true"
        assert len(lm.calls) == 1

    @pytest.mark.slow
    def test_a_server_that_stops_in_the_middle_lets_the_key_go(self, tokens: Tokens, script: Script, lm: ScriptedLM) -> None:
        """Who asks the next one, or another, is answered at once."""
        script.held = True
        headers = {**KEY, "Authorization": f"Bearer {tokens.all}"}
        with ThreadPoolExecutor(1) as pool:
            with serving() as url:
                first = pool.submit(httpx.post, f"{url}{CHAT}", json=chat(), headers=headers, timeout=60)
                assert script.begun.wait(60)
            script.held = False
            script.go.set()
            assert first.exception() or first.result().is_server_error
        with serving() as url:
            again = httpx.post(f"{url}{CHAT}", json=chat(), headers=headers, timeout=60)
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)

    def test_a_process_that_died_holds_the_key_for_a_while(self, api: TestClient, lm: ScriptedLM) -> None:
        api.post(CHAT, json=chat(), headers=KEY)
        execute('UPDATE idempotency_keys SET status = NULL, body = NULL, headers = \'{"owner": "dead"}\'')
        assert api.post(CHAT, json=chat(), headers=KEY).status_code == 409
        execute("UPDATE idempotency_keys SET created_at = clock_timestamp() - interval '16 minutes'")
        assert api.post(CHAT, json=chat(), headers=KEY).status_code == 200
        assert len(lm.calls) == 2

    def test_an_answer_that_cannot_be_stored_goes_out_all_the_same(
        self, api: TestClient, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.idempotency.idempotency.keep", lambda s, *_: s.connection().exec_driver_sql("SELECT 1 / 0"))
        assert api.post(CHAT, json=chat(), headers=KEY).status_code == 200


class TestCall:
    def test_the_same_request_gets_the_same_answer_and_is_paid_once(self, api: TestClient, lm: ScriptedLM) -> None:
        finished = finish(api)
        path, body = f"/v1/artifacts/{finished.artifact_id}/call", {"inputs": {"message": "I was charged twice"}}
        assert api.post(path, json=body, headers=KEY).status_code == 503, "its model is not loaded"
        load(finished)
        first, second = (api.post(path, json=body, headers=KEY) for _ in range(2))
        assert first.json()["outputs"] == {"category": "billing"}
        assert (second.content, second.headers["idempotent-replayed"]) == (first.content, "true")
        assert len(lm.calls) == 1
