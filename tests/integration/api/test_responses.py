"""/v1/responses by openai-python, unmodified: translated to a chat completion of the LM host, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens
from tests.integration.api.finished import finish, load
from tests.integration.api.test_prompt_check import SYSTEM, knows_its_prompt
from tests.support.scripted_lm import Answer, Ask, BreakOff, Fail, Raw, Says, ScriptedLM

LOOK: Any = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
CALLS = [{"id": f"call_{n}", "type": "function", "function": {"name": "look", "arguments": f'{{"at": "{n}"}}'}} for n in range(2)]


def answer(ask: Ask) -> Answer:
    if "break off" in ask.text:
        return BreakOff("one two three")
    if "fail" in ask.text:
        return Fail(400, code="scripted", message="upstream says no", param="temperature")
    if "nonsense" in ask.text:
        return Raw(b'{"choices": ["x"]}')
    if ask.body.get("tools") and ask.messages[-1]["role"] == "user":
        return Says({"content": None, "tool_calls": CALLS})
    return '{"team": "billing"}' if "response_format" in ask.body else "I am here"


pytestmark = pytest.mark.lm_answers.with_args(answer)


class Team(BaseModel):
    team: str


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.use, max_retries=0) as made:
        yield made


class TestText:
    def test_asks(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        said = client.responses.create(
            model="tiny", input="Where?", instructions="Be brief.", temperature=0.5, max_output_tokens=9, metadata={"a": "b"}, store=False
        )
        assert (said.output_text, said.model, said.status, said.to_dict()["store"]) == ("I am here", "house/tiny", "completed", False)
        assert (said.metadata, said.instructions, said.max_output_tokens) == ({"a": "b"}, "Be brief.", 9)
        assert said.usage is not None
        assert (said.usage.input_tokens, said.usage.output_tokens, said.usage.input_tokens_details.cached_tokens) == (3, 3, 1)
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
        assert lm.calls[0].body == {"model": "tiny", "messages": messages, "temperature": 0.5, "max_tokens": 9}

    def test_a_conversation_with_what_was_answered_before(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        first = client.responses.create(model="tiny", input=[{"role": "user", "content": "Where?"}])
        picture: Any = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
        history: Any = [
            {"role": "developer", "content": [{"type": "input_text", "text": "Be "}, {"type": "input_text", "text": "brief."}]},
            *first.output,
            {"role": "user", "content": [{"type": "input_text", "text": "And this?"}, picture]},
        ]
        client.responses.create(model="tiny", input=history)
        assert lm.calls[1].body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "I am here"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
        ]

    def test_streams_with_the_events_of_the_api(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model="tiny", input="Where?") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        deltas = kinds.count("response.output_text.delta")
        assert kinds == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * deltas,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert (deltas, final.output_text, final.status, final.output[0].type) == (3, "I am here", "completed", "message")
        assert final.usage is not None
        assert final.usage.output_tokens == 3

    def test_events_are_numbered_and_name_their_item(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model="tiny", input="Where?", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert len({event.item_id for event in events if event.type == "response.output_text.delta"}) == 1

    def test_the_same_key_asks_once(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        ids = {client.responses.create(model="tiny", input="Where?", extra_headers={"Idempotency-Key": "k"}).id for _ in range(2)}
        assert (len(ids), len(lm.calls)) == (1, 1)


class TestStructuredOutput:
    def test_parses(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        assert client.responses.parse(model="tiny", input="Whose?", text_format=Team).output_parsed == Team(team="billing")
        asked = lm.calls[0].body["response_format"]
        assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("json_schema", "Team", True)
        assert list(asked["json_schema"]["schema"]["properties"]) == ["team"]

    def test_streams(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model="tiny", input="Whose?", text_format=Team) as stream:
            assert stream.get_final_response().output_parsed == Team(team="billing")


class TestTools:
    def test_calls_and_their_outputs(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        asked: Any = [{"role": "user", "content": "Look."}]
        said = client.responses.create(
            model="tiny", input=asked, tools=[LOOK], tool_choice={"type": "function", "name": "look"}, parallel_tool_calls=False
        )
        calls = [item for item in said.output if item.type == "function_call"]
        assert [(call.name, call.call_id, call.arguments) for call in calls] == [
            ("look", "call_0", '{"at": "0"}'),
            ("look", "call_1", '{"at": "1"}'),
        ]
        body = lm.calls[0].body
        assert body["tools"] == [{"type": "function", "function": {name: LOOK[name] for name in ("name", "parameters")}}]
        assert (body["tool_choice"], body["parallel_tool_calls"]) == ({"type": "function", "function": {"name": "look"}}, False)
        outputs: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "nothing"} for call in calls]
        history: Any = [*asked, *said.output, *outputs]
        again = client.responses.create(model="tiny", input=history, tools=[LOOK])
        assert again.output_text == "I am here"
        assert lm.calls[1].body["messages"][1:] == [
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            *[{"role": "tool", "tool_call_id": call["id"], "content": "nothing"} for call in CALLS],
        ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "param", "said"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id", "keeps no responses; send the whole conversation in `input`"),
            ({"store": True}, "store", "keeps no responses"),
            ({"background": True}, "background", "keeps no responses"),
            ({"conversation": "conv_1"}, "conversation", "keeps no responses"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]", "`web_search` is not taken here; this server has no built-in tools"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "`item_reference` is not taken here"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
                "input[0].content[0]",
                "`input_file` is not taken here",
            ),
            ({"top_logprobs": 3}, "top_logprobs", "this server has no such parameter"),
            ({"max_tokens": 3}, "max_tokens", "unknown field `max_tokens`"),
            ({"input": []}, "input", "at least 1"),
        ],
    )
    def test_are_by_name(self, api: TestClient, lm: ScriptedLM, option: dict[str, Any], param: str, said: str) -> None:
        reply = api.post("/v1/responses", json={"model": "tiny", "input": "a", **option})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], lm.calls) == (400, param, [])
        assert said in error["message"]

    def test_what_asks_for_nothing_is_taken(self, api: TestClient) -> None:
        nothing: dict[str, Any] = {
            "previous_response_id": None,
            "store": False,
            "background": False,
            "tools": [],
            "top_logprobs": 0,
            "truncation": "disabled",
        }
        reply = api.post("/v1/responses", json={"model": "tiny", "input": "a", "include": ["reasoning.encrypted_content"], **nothing})
        assert reply.status_code == 200, reply.text

    def test_the_hosts_refusal_keeps_its_message(self, client: openai.OpenAI) -> None:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="upstream says no") as raised:
                client.responses.create(model="tiny", input="fail", stream=stream)
            assert raised.value.param == "temperature"

    def test_an_answer_that_cannot_be_read_is_503(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as raised:
            client.responses.create(model="tiny", input="nonsense")
        assert raised.value.status_code == 503

    def test_a_stream_that_breaks_off_ends_as_failed(self, client: openai.OpenAI) -> None:
        *_, last = client.responses.create(model="tiny", input="break off", stream=True)
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert "was lost in the middle of its answer" in last.response.error.message
        assert last.response.output_text == "one two three"

    def test_a_compiled_programs_model_answers_its_prompts_alone(self, client: openai.OpenAI, api: TestClient) -> None:
        finished = finish(api)
        load(finished)
        knows_its_prompt()
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model=finished.model, input="Where?")
        assert (raised.value.code, raised.value.param) == ("not_a_rendered_prompt", "input")
        assert client.responses.create(model=finished.model, instructions=SYSTEM, input="Where?").output_text == "I am here"
        passed = client.responses.create(model=finished.model, input="Where?", extra_headers={"stillhouse-prompt-check": "off"})
        assert passed.status == "completed"

    def test_a_key_without_the_scope(self, api: TestClient, tokens: Tokens) -> None:
        api.headers["Authorization"] = f"Bearer {tokens.read}"
        assert api.post("/v1/responses", json={"model": "tiny", "input": "a"}).status_code == 403
