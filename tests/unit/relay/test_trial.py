"""Trying a connection: what failed, in plain words that tell nothing of the network, the key or the answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from distill.errors import CannotOpen
from distill.relay import Finding, Target, try_out
from stack.network import LOOPBACK, free_port
from tests.support.scripted_lm import Answer, CutShort, Fail, Hang, HangUp, Raw, ScriptedLM
from tests.support.texts_lm import TextsLM

KEY = "canary-5f3d9b1c7a2e4680-last"
WORDS = "a word of the host's own"


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=lambda ask: "ok", api_key=KEY) as server:
        yield server


def target(base_url: str, **changes: Any) -> Target:
    return Target(**{"connection": "conn-1", "base_url": base_url, "model": "big", "api_key": KEY, **changes})


def found(tried: Target, *allowed: str) -> Finding:
    finding = asyncio.run(try_out(tried, allowed))
    for secret in (KEY, WORDS, LOOPBACK, tried.base_url):
        assert secret not in finding.message
    return finding


class TestAnswers:
    def test_a_model_that_answers_is_asked_for_one_token(self, lm: ScriptedLM) -> None:
        assert found(target(lm.url)) == Finding("ok", "big answered")
        assert [call.body["max_tokens"] for call in lm.calls] == [1]
        assert lm.calls[0].headers["Authorization"] == f"Bearer {KEY}"

    def test_a_model_that_knows_the_limit_by_another_name(self, lm: ScriptedLM) -> None:
        lm.answer = lambda ask: Fail(400) if "max_tokens" in ask.body else "ok"
        assert found(target(lm.url)).code == "ok"

    def test_without_a_model_the_host_is_asked_for_its_models(self, lm: ScriptedLM) -> None:
        assert found(target(lm.url, model="")).message.startswith("it lists 1 models")
        assert lm.calls == []

    @pytest.mark.parametrize("refusal", [Fail(400), Fail(403), Fail(404)])
    def test_a_model_that_has_embeddings_alone(self, refusal: Fail) -> None:
        with TextsLM(answer=lambda ask: refusal, api_key=KEY) as lm:
            assert found(target(lm.url)) == Finding("ok", "big answered, by /embeddings; it has no chat")

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (Fail(404, message=WORDS), "model_not_found"),
            (Fail(402, message=WORDS), "quota_exhausted"),
            (Fail(403, message=WORDS), "unauthorized"),
            (Fail(429, message=WORDS), "rate_limited"),
            (Fail(400, message=WORDS), "bad_request"),
            (Fail(500, message=WORDS), "unavailable"),
            (Fail(307, message=WORDS), "redirect"),
            (Raw(b"<html>a proxy's page</html>"), "not_openai_shaped"),
            (Raw(b'{"hello": "world"}'), "not_openai_shaped"),
            (Raw(b"[" * 9_000_000), "too_large"),
            (HangUp(), "broken"),
            (CutShort(), "broken"),
        ],
    )
    def test_what_failed(self, lm: ScriptedLM, answer: Answer, code: str) -> None:
        lm.answer = lambda ask: answer
        assert found(target(lm.url)).code == code

    def test_keys(self, lm: ScriptedLM) -> None:
        assert found(target(lm.url, api_key="wrong")).code == "unauthorized"
        assert found(target(lm.url, api_key=None)).code == "key_missing"

        def closed() -> str:
            raise CannotOpen("sealed elsewhere")

        assert found(target(lm.url, read_key=closed)).code == "key_unreadable"
        assert found(target(lm.url, api_key=None, read_key=lambda: KEY)).code == "ok"

    def test_another_path_than_that_of_the_api(self, lm: ScriptedLM) -> None:
        assert found(target(f"{lm.url}/elsewhere")).code == "not_openai_shaped"

    def test_no_answer_in_time(self, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("distill.relay.trial.SECONDS", 0.2)
        lm.answer = lambda ask: Hang()
        assert found(target(lm.url)).code == "timeout"


class TestAddresses:
    def test_nothing_listens(self) -> None:
        assert found(target(f"http://{LOOPBACK}:{free_port()}/v1")).code == "refused"

    def test_a_name_without_an_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getaddrinfo(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert found(target("http://nowhere.example/v1")).code == "name_not_found"

    def test_no_tls_there(self, lm: ScriptedLM) -> None:
        assert found(target(lm.url.replace("http:", "https:"))).code == "tls"

    def test_one_that_is_not_public(self, lm: ScriptedLM) -> None:
        for url in (lm.url, f"https://localhost:{lm.port}/v1", "https://169.254.169.254/latest"):
            assert found(target(url, public_only=True)).code == "address_not_allowed"
        assert found(target(lm.url, public_only=True), LOOPBACK).code == "ok"
        assert len(lm.calls) == 1
