"""Chatting with a model of a real server: by the SDK, and on the command line."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from stillhouse import APIStatusError, AsyncStillhouse, NotFoundError, Stillhouse
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import Tokens
from tests.support.scripted_lm import Answer, Ask, Drip, Fail, ScriptedLM


def answer(ask: Ask) -> Answer:
    """Says piece by piece how much it was told."""
    return (
        Fail(400, code="scripted", message="upstream says no") if "fail" in ask.text else Drip(f"{len(ask.body['messages'])} so far", 0.001)
    )


pytestmark = pytest.mark.lm_answers.with_args(answer)


HELLO = [{"role": "user", "content": "hello"}]


class TestStream:
    def test_the_answer_comes_in_pieces(self, address: str, tokens: Tokens, lm: ScriptedLM) -> None:
        with Stillhouse(address, tokens.use) as client:
            pieces = list(client.chat.stream("house/tiny", HELLO, temperature=0.5))
        assert (len(pieces) > 1, "".join(pieces)) == (True, "1 so far")
        assert (lm.calls[0].body["temperature"], lm.calls[0].body["stream"]) == (0.5, True)

    def test_async(self, address: str, tokens: Tokens) -> None:
        async def go() -> str:
            async with AsyncStillhouse(address, tokens.use) as client:
                return "".join([piece async for piece in client.chat.stream("house/tiny", HELLO)])

        assert asyncio.run(go()) == "1 so far"

    def test_refusals_are_typed(self, address: str, tokens: Tokens) -> None:
        with Stillhouse(address, tokens.use, max_retries=0) as client:
            with pytest.raises(NotFoundError):
                list(client.chat.stream("none", HELLO))
            with pytest.raises(APIStatusError, match="upstream says no"):
                list(client.chat.stream("house/tiny", [{"role": "user", "content": "fail"}]))


class TestCommand:
    @pytest.fixture(autouse=True)
    def environment(self, address: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.use)

    def test_one_question(self) -> None:
        said = CliRunner().invoke(app, ["chat", "house/tiny", "hello", "--system", "Be brief."])
        assert (said.exit_code, said.stdout) == (Exit.OK, "2 so far\n")

    def test_a_conversation_remembers_what_was_said(self) -> None:
        said = CliRunner().invoke(app, ["chat", "house/tiny", "--json"], input="hello\n\nand again\n")
        assert [json.loads(line)["content"] for line in said.stdout.splitlines()] == ["1 so far", "3 so far"]

    def test_an_unknown_model_is_one_line(self) -> None:
        refused = CliRunner().invoke(app, ["chat", "none", "hello"])
        assert refused.exit_code == Exit.FAILED
        assert "GET /v1/models lists what there is" in refused.stderr.splitlines()[0]
