"""Native tool calls and reasoning: what is asked, what is kept of it, and rows that have the same shape."""

from __future__ import annotations

import json
from typing import Any

import dspy
import orjson
import pytest

from stillhouse_programs.collect import Prepared, prepare_program
from stillhouse_programs.native import answer_message, storable
from stillhouse_programs.prompts import make_prompt_adapter
from stillhouse_programs.relay_http import Caller, Reply
from stillhouse_programs.render import Rejection, Row, render_row
from tests.unit.runner.support import Json, ScriptedRelay, rollout

TOOLS = {"type": "chat", "native_tools": True}


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


class Asks(dspy.Signature):
    q: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


class Thinks(dspy.Signature):
    q: str = dspy.InputField()
    reasoning: dspy.Reasoning = dspy.OutputField()
    answer: str = dspy.OutputField()


class Agent(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(Asks)

    def forward(self, q: str) -> dspy.Prediction:
        calls = self.ask(q=q, tools=[dspy.Tool(weather)]).calls
        return dspy.Prediction(names=[call.name for call in calls.tool_calls])


class Messages(ScriptedRelay):
    """Answers with whole messages, one after the other."""

    def __init__(self, *messages: Json) -> None:
        super().__init__()
        self.messages = list(messages)

    def reply(self, caller: Caller, data: bytes) -> Reply:
        self.bodies.append(orjson.loads(data))
        message = {"role": "assistant", "content": None, **self.messages[len(self.bodies) - 1]}
        body = {
            "id": "1",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return Reply(200, None, orjson.dumps(body))


def says(name: str, number: str, **arguments: Any) -> Json:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": number, "type": "function", "function": function}


def text(**fields: str) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()) + "\n\n[[ ## completed ## ]]\n"


def ready(program: dspy.Module, relay: ScriptedRelay, adapter: Any = "chat", native: tuple[str, ...] = ()) -> Prepared:
    program.set_lm(relay.lm(native=native))
    return prepare_program(program, make_prompt_adapter(adapter))


def row_of(made: Prepared, call: Json, program: dspy.Module | None = None) -> Row:
    row = render_row(program or made.program, call["predictor"], call, made.prompt_adapter)
    assert isinstance(row, Row), row
    return row


class TestToolCalls:
    def test_a_row_is_what_was_sent_and_what_came(self) -> None:
        relay = Messages({"tool_calls": [says("weather", "x81", city="Rome")]})
        made = ready(Agent(), relay, TOOLS, ("tools",))
        trace = rollout(made, q="Rome?")
        assert trace["outputs"] == {"names": ["weather"]}
        row = row_of(made, trace["calls"][0])
        assert row.prompt == relay.bodies[0]["messages"]
        assert row.tools == relay.bodies[0]["tools"]
        assert [tool["function"]["description"] for tool in row.tools or []] == ["The weather of a city."]
        assert row.completion == [{"role": "assistant", "content": "", "tool_calls": [says("weather", "call_0", city="Rome")]}]

    def test_random_ids_make_no_other_row(self) -> None:
        made = [
            ready(Agent(), Messages({"tool_calls": [says("weather", number, city="Rome")]}), TOOLS, ("tools",)) for number in ("a", "b")
        ]
        one, two = (row_of(each, rollout(each, q="Rome?")["calls"][0]) for each in made)
        assert one.digest == two.digest
        assert one.as_json()["tools"] == one.tools

    def test_a_student_without_tools_gets_them_as_text(self) -> None:
        made = ready(Agent(), Messages({"tool_calls": [says("weather", "x81", city="Rome")]}), TOOLS, ("tools",))
        trace = rollout(made, q="Rome?")
        relay = Messages({"content": text(calls='{"tool_calls": [{"name": "weather", "args": {"city": "Rome"}}]}')})
        student = ready(Agent(), relay, TOOLS)
        assert rollout(student, q="Rome?")["outputs"] == {"names": ["weather"]}
        row = row_of(student, trace["calls"][0])
        assert row.tools is None
        assert row.prompt == relay.bodies[0]["messages"]
        assert row.completion[0]["content"] == relay.messages[0]["content"]

    def test_a_turn_in_the_middle_of_an_agents_history(self) -> None:
        first = {"tool_calls": [says("weather", "x81", city="Rome")], "content": text(next_thought="look")}
        relay = Messages(first, {"tool_calls": [says("submit", "x82", answer="sunny")], "content": text(next_thought="done")})
        made = ready(dspy.ReActV2("q -> answer", tools=[weather]), relay, TOOLS, ("tools",))
        trace = rollout(made, q="Rome?")
        assert trace["outputs"]["answer"] == "sunny"
        row = row_of(made, trace["calls"][1])
        assert [message["role"] for message in row.prompt] == ["system", "user", "assistant", "tool", "user"]
        assert [message["content"] for message in row.prompt] == [message["content"] for message in relay.bodies[1]["messages"]]
        assert row.prompt[2]["tool_calls"] == [says("weather", "call_0", city="Rome")]
        assert row.prompt[3]["tool_call_id"] == "call_0"
        assert row.completion == [
            {"role": "assistant", "content": text(next_thought="done"), "tool_calls": [says("submit", "call_1", answer="sunny")]}
        ]

    def test_the_call_is_stored_with_what_a_prompt_says_of_its_tools(self) -> None:
        made = ready(Agent(), Messages({"tool_calls": [says("weather", "x81", city="Rome")]}), TOOLS, ("tools",))
        call = rollout(made, q="Rome?")["calls"][0]
        assert call["overrides"] == []
        assert call["inputs"]["tools"] == [{"name": "weather", "desc": "The weather of a city.", "args": {"city": {"type": "string"}}}]
        assert call["outputs"]["calls"] == {"tool_calls": [{"id": "x81", "name": "weather", "args": {"city": "Rome"}}]}
        assert storable([dspy.Tool(weather)]) == call["inputs"]["tools"]

    def test_arguments_are_json_whatever_numbers_they_hold(self) -> None:
        calls = dspy.ToolCalls.from_dict_list([{"name": "weather", "args": {"x": float("nan"), "y": [float("-inf"), 1.5]}}])
        (call,) = answer_message("", calls, None)["tool_calls"]
        assert call["function"]["arguments"] == '{"x": null, "y": [null, 1.5]}'


class TestReasoning:
    def test_goes_beside_the_text(self) -> None:
        relay = Messages({"content": text(answer="4"), "reasoning_content": "two and two"})
        made = ready(dspy.Predict(Thinks), relay, native=("reasoning",))
        trace = rollout(made, q="2+2?")
        assert trace["outputs"] == {"reasoning": "two and two", "answer": "4"}
        row = row_of(made, trace["calls"][0])
        assert row.prompt == relay.bodies[0]["messages"]
        assert relay.bodies[0]["reasoning_effort"] == "low"
        assert "[[ ## reasoning ## ]]" not in row.prompt[0]["content"]
        assert row.completion == [{"role": "assistant", "content": text(answer="4"), "reasoning_content": "two and two"}]

    def test_is_text_for_an_lm_without_it(self) -> None:
        made = ready(dspy.Predict(Thinks), Messages({"content": text(reasoning="two and two", answer="4")}))
        trace = rollout(made, q="2+2?")
        row = row_of(made, trace["calls"][0])
        assert "[[ ## reasoning ## ]]" in row.prompt[0]["content"]
        assert row.completion == [{"role": "assistant", "content": text(reasoning="two and two", answer="4")}]


class TestRejected:
    @pytest.mark.parametrize(
        ("outputs", "reason"),
        [({"calls": None}, "missing_output"), ({"calls": {"tool_calls": []}}, "missing_output"), ({"calls": "weather"}, "output_type")],
    )
    def test_an_answer_that_says_nothing(self, outputs: Json, reason: str) -> None:
        made = ready(Agent(), Messages({}), TOOLS, ("tools",))
        call = {"predictor": "ask", "inputs": {"q": "x", "tools": storable([dspy.Tool(weather)])}, "outputs": outputs, "overrides": []}
        rejected = render_row(made.program, "ask", call, made.prompt_adapter)
        assert isinstance(rejected, Rejection)
        assert rejected.reason == reason


COMPACT = {"type": "compact", "native_tools": True}


class TestCompact:
    """Tools, reasoning and conversations under the compact prompt adapter."""

    def test_native_tool_calls_have_no_text_beside_them(self) -> None:
        relay = Messages({"tool_calls": [says("weather", "x81", city="Rome")]})
        made = ready(Agent(), relay, COMPACT, ("tools",))
        row = row_of(made, rollout(made, q="Rome?")["calls"][0])
        assert [message["content"] for message in relay.bodies[0]["messages"]] == [Asks.instructions, "Rome?"]
        assert (row.prompt, row.tools) == (relay.bodies[0]["messages"], relay.bodies[0]["tools"])
        assert row.completion == [{"role": "assistant", "content": "", "tool_calls": [says("weather", "call_0", city="Rome")]}]

    def test_a_student_without_tools_gets_them_as_text(self) -> None:
        relay = Messages({"content": '{"tool_calls": [{"name": "weather", "args": {"city": "Rome"}}]}'})
        made = ready(Agent(), relay, "compact")
        trace = rollout(made, q="Rome?")
        assert trace["outputs"] == {"names": ["weather"]}
        row = row_of(made, trace["calls"][0])
        assert row.prompt == relay.bodies[0]["messages"]
        assert row.completion[0]["content"] == relay.messages[0]["content"]

    def test_a_turn_in_the_middle_of_an_agents_history(self) -> None:
        first = {"tool_calls": [says("weather", "x81", city="Rome")], "content": "look"}
        relay = Messages(first, {"tool_calls": [says("submit", "x82", answer="sunny")], "content": "done"})
        made = ready(dspy.ReActV2("q -> answer", tools=[weather]), relay, COMPACT, ("tools",))
        trace = rollout(made, q="Rome?")
        row = row_of(made, trace["calls"][1])
        assert [(message["role"], message["content"]) for message in row.prompt[1:]] == [
            ("user", "Rome?"), ("assistant", "look"), ("tool", "sunny in Rome")
        ]  # fmt: skip
        assert [message["content"] or "" for message in relay.bodies[1]["messages"]] == [message["content"] for message in row.prompt]
        assert row.completion == [{"role": "assistant", "content": "done", "tool_calls": [says("submit", "call_1", answer="sunny")]}]

    def test_native_reasoning_is_not_in_the_text(self) -> None:
        relay = Messages({"content": "4", "reasoning_content": "2 and 2"})
        made = ready(dspy.Predict(Thinks), relay, "compact", ("reasoning",))
        trace = rollout(made, q="2+2?")
        assert trace["outputs"]["answer"] == "4"
        assert row_of(made, trace["calls"][0]).completion == [{"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}]
