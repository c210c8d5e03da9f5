"""What a chat may ask for, through openai-python, of an LM host that has it, that refuses it, and that goes away in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from distill.catalog import counters
from distill.db import unit_of_work
from tests.integration.api.conftest import Tokens, serving
from tests.support.scripted_lm import Answer, Ask, BreakOff, Fail, Says, ScriptedLM

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}


def answer(ask: Ask) -> Answer:
    if "logit_bias" in ask.body:
        return Fail(400, "unsupported_parameter", "this host has no logit_bias", param="logit_bias")
    if ask.text == "an older host" and "stream_options" in ask.body:
        return Fail(400, "unsupported_parameter", "unknown field stream_options", param="stream_options")
    if ask.body.get("tools"):
        return Says({"content": None, "tool_calls": [CALL]})
    return BreakOff("one two ") if ask.text == "break off" else "one two three"


pytestmark = pytest.mark.lm_answers.with_args(answer)


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.all, max_retries=0) as made:
        yield made


def create(client: openai.OpenAI, text: str = "hello", **options: Any) -> Any:
    return client.chat.completions.create(model="house/tiny", messages=[{"role": "user", "content": text}], **options)


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"n": 3},
            {"stop": ["three"]},
            {"logprobs": True, "top_logprobs": 2},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "team", "schema": {"enum": ["billing"]}}}},
        ],
    )
    def test_the_host_is_asked_for_it(self, client: openai.OpenAI, lm: ScriptedLM, options: dict[str, Any]) -> None:
        create(client, **options)
        assert {name: lm.calls[0].body[name] for name in options} == options

    def test_a_tools_call_comes_back(self, client: openai.OpenAI) -> None:
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
        message = create(client, tools=[tool], tool_choice="auto").choices[0].message
        assert (message.content, [call.function.name for call in message.tool_calls]) == (None, ["look"])

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_the_host_has_not_is_400_that_names_it(self, client: openai.OpenAI, stream: bool) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            create(client, logit_bias={"1": 1}, stream=stream)
        assert (raised.value.param, "this host has no logit_bias" in raised.value.message) == ("logit_bias", True)


class TestStream:
    def test_the_last_piece_tells_what_it_took(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        *pieces, last = create(client, stream=True, stream_options={"include_usage": True})
        assert "".join(piece.choices[0].delta.content for piece in pieces) == "one two three"
        assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 1, 3)
        assert lm.calls[0].body["stream_options"] == {"include_usage": True}

    def test_one_that_breaks_off_raises_after_its_whole_pieces(self, client: openai.OpenAI) -> None:
        stream = create(client, "break off", stream=True)
        assert "".join(next(stream).choices[0].delta.content for _ in range(2)) == "one two "
        with pytest.raises(openai.APIError, match="LM host was lost in the middle of its answer") as raised:
            next(stream)
        assert (raised.value.code, raised.value.type) == ("unavailable", "server_error")

    def test_its_tokens_are_counted_and_shown_to_those_alone_who_ask(self, tokens: Tokens, lm: ScriptedLM) -> None:
        with serving() as url, openai.OpenAI(base_url=f"{url}/v1", api_key=tokens.all, max_retries=0) as client:
            pieces = list(create(client, stream=True))
            assert "".join(piece.choices[0].delta.content for piece in pieces) == "one two three"
            assert [piece.usage for piece in pieces] == [None, None, None]
            assert "".join(piece.choices[0].delta.content for piece in create(client, "an older host", stream=True)) == "one two three"
            with pytest.raises(openai.BadRequestError):
                create(client, logit_bias={"1": 1}, stream=True)
        assert [call.body.get("stream_options") for call in lm.calls] == [*[{"include_usage": True}] * 2, None, {"include_usage": True}]
        with unit_of_work() as s:
            counted = counters.totals(s)["lm_tokens"]
        assert {labels[1]: amount for labels, amount in counted.items()} == {"prompt": 4, "completion": 6}
