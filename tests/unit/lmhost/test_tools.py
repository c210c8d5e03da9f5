"""Tools beside the text: the trainer's prompt byte for byte, calls asked for and read, whole and streamed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from engines.base_models import resolve
from engines.chat_template import for_template, whole_text
from engines.lmhost.engine import Engine, EngineOptions
from engines.lmhost.prompts import Prompts
from engines.lmhost.schemas import ChatRequest
from engines.lmhost.server import create_app
from engines.lmhost.tools import CallReader
from engines.schemas import TrainingRow
from tests.support.encoded import encode
from tests.support.tiny_model import build_tiny_model, build_tokenizer
from tests.unit.lmhost.asker import chat

Json = dict[str, Any]


def tool(name: str, **properties: Any) -> Json:
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": parameters}}


def says(name: str, number: int, **arguments: Any) -> Json:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


LOOK = tool("look_up", zeta={"enum": ["north", "south"]}, b={"type": "boolean"})
SEND = tool("send", to={"enum": ["billing", "technical"]})
TURNS: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Où est Zoë?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [says("look_up", 0, zeta="south", b=True), says("send", 1, to="Zoë")]},
    {"role": "tool", "content": '{"zeta": 1, "b": 2}', "tool_call_id": "call_0", "name": "look_up"},
    {"role": "tool", "content": "", "tool_call_id": "call_1"},
    {"role": "user", "content": "And now?"},
]
ANSWER = {"role": "assistant", "content": "", "tool_calls": [says("send", 2, to="billing")]}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(tools=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "tools", tools=True)
    engine = Engine(resolve(str(folder)), EngineOptions("float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, None)) as client:
        yield client


def body(engine: Engine, **changes: Any) -> Json:
    return {"model": engine.base.id, "messages": chat("Who?"), "max_tokens": 120, "temperature": 0, "tools": [LOOK, SEND], **changes}


def answered(client: TestClient, request: Json) -> list[Json]:
    reply = client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 200, reply.text
    choices: list[Json] = reply.json()["choices"]
    return choices


def refused(client: TestClient, request: Json) -> tuple[str | None, str]:
    reply = client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["param"], error["message"]


class TestPrompt:
    @pytest.mark.parametrize("length", range(2, len(TURNS) + 1))
    @pytest.mark.parametrize("tools", [None, [LOOK], [SEND, LOOK]])
    def test_is_the_one_that_was_trained_on(self, tokenizer: Any, length: int, tools: list[Json] | None) -> None:
        turns = TURNS[:length]
        row = encode(TrainingRow.model_validate({"prompt": turns, "completion": [ANSWER], "tools": tools}), tokenizer)
        asked = ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": turns, "tools": tools}))
        prompt = Prompts(tokenizer, 4096).encode([message.rendered() for message in asked.messages], asked.offered())
        assert tuple(prompt.tolist()) == row.ids[: row.prompt_length]

    def test_tools_stand_in_it_in_the_callers_order_of_keys(self, engine: Engine, client: TestClient) -> None:
        def prompt_tokens(tools: list[Json] | None) -> int:
            reply = client.post("/v1/chat/completions", json=body(engine, tools=tools, max_tokens=1)).json()
            return int(reply["usage"]["prompt_tokens"])

        assert prompt_tokens([LOOK]) > prompt_tokens(None) + 50
        text = Prompts(engine.tokenizer, 4096).encode(chat("Who?"), [LOOK]).tolist()
        assert '"properties": {"zeta": {"enum": ["north", "south"]}, "b": {"type": "boolean"}}' in engine.tokenizer.decode(text)


class TestCalls:
    def test_a_call_that_is_asked_for_obeys_the_tools_schema(self, engine: Engine, client: TestClient) -> None:
        choices = answered(client, body(engine, tool_choice="required", n=4, temperature=1.5, seed=7))
        for choice in choices:
            assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
            (call,) = choice["message"]["tool_calls"]
            assert call.keys() == {"id", "type", "function"}
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "send":
                assert arguments in ({"to": "billing"}, {"to": "technical"})
            else:
                assert (list(arguments), arguments["zeta"] in ("north", "south"), type(arguments["b"])) == (["zeta", "b"], True, bool)
        assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices}) == 4

    def test_one_tool_by_name(self, engine: Engine, client: TestClient) -> None:
        named = {"type": "function", "function": {"name": "send"}}
        (choice,) = answered(client, body(engine, tool_choice=named))
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "send"

    def test_streamed(self, engine: Engine, client: TestClient) -> None:
        request = body(engine, tool_choice="required")
        (whole,) = answered(client, request)
        reply = client.post("/v1/chat/completions", json={**request, "stream": True})
        lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        choices = [json.loads(line)["choices"][0] for line in lines]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == ""
        ((call,),) = [choice["delta"]["tool_calls"] for choice in choices if "tool_calls" in choice["delta"]]
        assert (call["index"], call["function"]) == (0, whole["message"]["tool_calls"][0]["function"])
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]

    def test_text_without_a_call_is_text(self, engine: Engine, client: TestClient) -> None:
        (choice,) = answered(client, body(engine, max_tokens=5))
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "length"

    def test_none_leaves_the_tools_out(self, engine: Engine, client: TestClient) -> None:
        none, without = body(engine, tool_choice="none", max_tokens=20), body(engine, tools=None, max_tokens=20)
        assert answered(client, none) == answered(client, without)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"tools": None, "tool_choice": "required"}, "tool_choice needs tools"),
            ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "these are look_up, send"),
            ({"structured_outputs": {"choice": ["a"]}}, "tools exclude structured_outputs"),
            ({"tools": [{"type": "function", "function": {"title": "x"}}]}, "name"),
            ({"messages": [*chat("Who?"), {"role": "assistant"}]}, "content is missing"),
            ({"messages": [*chat("Who?"), {"role": "tool", "content": "x"}]}, "tool_call_id"),
            (
                {
                    "messages": [
                        *chat("Who?"),
                        {**ANSWER, "tool_calls": [says("send", 0) | {"function": {"name": "send", "arguments": "[]"}}]},
                    ]
                },
                "object",
            ),
        ],
    )
    def test_what_does_not_fit(self, engine: Engine, client: TestClient, changes: Json, says: str) -> None:
        assert says in refused(client, body(engine, **changes))[1]

    def test_tools_that_the_chat_template_would_drop(self, tiny_model: Path) -> None:
        engine = Engine(resolve(str(tiny_model)), EngineOptions("float32"))
        with TestClient(create_app(engine, None)) as client:
            assert refused(client, body(engine)) == ("tools", "The base model's chat template has no tool calls that this host reads.")
            assert answered(client, body(engine, tool_choice="none", max_tokens=2))
        engine.close()


words = st.text(st.sampled_from('ab é\n"\\{}<>_/tool_call'), max_size=12)
calls = st.lists(
    st.tuples(st.sampled_from(["look_up", "send"]), st.dictionaries(words, words | st.integers() | st.booleans(), max_size=2)), max_size=3
)


class TestReader:
    """Whatever an answer says, and however it comes in pieces."""

    @given(text=words.map(str.strip), made=calls, cuts=st.lists(st.integers(0, 400), max_size=8))
    @example(text="", made=[("send", {"to": "</tool_call>\n<tool_call>"})], cuts=[3, 30])
    @example(text="a <tool_call> b", made=[("send", {})], cuts=[5, 12, 20])
    def test_reads_what_the_chat_template_wrote(self, tokenizer: Any, text: str, made: list[tuple[str, Json]], cuts: list[int]) -> None:
        answer = {"role": "assistant", "content": text, "tool_calls": [says(name, 0, **arguments) for name, arguments in made]}
        written = whole_text(tokenizer, [*chat("Who?"), for_template(answer)], [LOOK])
        said = written[written.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n") : written.rindex("<|im_end|>")]
        reader, told, found = CallReader(), "", list[Json]()
        places = sorted({min(cut, len(said)) for cut in cuts} | {0})
        for start, end in zip(places, [*places[1:], None], strict=True):
            news, calls = reader.take(said[start:end], last=end is None)
            told, found = told + news, found + calls
        assert told == text
        assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in found] == made

    @pytest.mark.parametrize(
        ("said", "text", "names"),
        [
            ('<tool_call>[{"name": "a", "arguments": {}}, {"name": "b"}]</tool_call>', "", ["a", "b"]),
            ('Well.\n<tool_call>\n{"name": "a", "arguments": {}}', "Well.", ["a"]),
            ('<tool_call>{"name": "a", "argum', '<tool_call>{"name": "a", "argum', []),
            ('<tool_call>{"name": 7}</tool_call> so', '<tool_call>{"name": 7}</tool_call> so', []),
            ('<tool_call>nothing</tool_call>\n<tool_call>{"name": "a"}</tool_call>\n', "<tool_call>nothing</tool_call>", ["a"]),
            ("a < b", "a < b", []),
            ("ends with <tool", "ends with <tool", []),
        ],
    )
    def test_other_ways_to_write_calls_and_what_is_none(self, said: str, text: str, names: list[str]) -> None:
        told, found = CallReader().take(said, last=True)
        assert (told, [call["function"]["name"] for call in found]) == (text, names)
