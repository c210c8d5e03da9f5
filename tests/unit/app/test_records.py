"""Training records in the shapes that others train with."""

import json
from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter

from distill.jobs.records import RecordFormat, records

ROW: dict[str, Any] = {
    "prompt": [
        {"role": "system", "content": "Route."},
        {"role": "user", "content": "a demo"},
        {"role": "assistant", "content": "billing"},
        {"role": "user", "content": "häuslich"},
    ],
    "completion": [{"role": "assistant", "content": "account"}],
    "digest": "v1:1",
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
CALL = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": '{"zeta": "Zoë", "b": 2}'}}
TOOL_ROW: dict[str, Any] = {
    "prompt": [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "here", "tool_call_id": "call_0"},
        {"role": "user", "content": "and now?"},
    ],
    "completion": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "tools": TOOLS,
}


def read(tmp_path: Path, form: RecordFormat, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [json.loads(line) for line in b"".join(records(path.open("rb"), form)).splitlines()]


class TestRecords:
    def test_a_number_that_json_has_not_is_null_in_an_object(self, tmp_path: Path) -> None:
        """Earlier releases wrote such arguments."""
        call = {**CALL, "function": {"name": "look", "arguments": '{"x": NaN, "y": [-Infinity, 1]}'}}
        row = {"prompt": [], "completion": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
        (record,) = read(tmp_path, "trl", row)
        assert record["completion"][0]["tool_calls"][0]["function"]["arguments"] == {"x": None, "y": [None, 1]}

    def test_trl_gets_prompt_and_completion(self, tmp_path: Path) -> None:
        assert read(tmp_path, "trl", ROW, ROW) == [{"prompt": ROW["prompt"], "completion": ROW["completion"]}] * 2

    def test_openai_gets_messages_and_no_loss_on_demos(self, tmp_path: Path) -> None:
        (record,) = read(tmp_path, "openai", ROW)
        assert list(record) == ["messages"]
        assert [message.get("weight") for message in record["messages"]] == [None, None, 0, None, None]
        assert record["messages"][-1] == {"role": "assistant", "content": "account"}

    def test_tools_go_along(self, tmp_path: Path) -> None:
        assert read(tmp_path, "openai", TOOL_ROW)[0]["tools"] == TOOLS
        assert read(tmp_path, "trl", TOOL_ROW)[0]["tools"] == TOOLS

    def test_arguments_of_a_tool_call_are_text_for_openai_and_an_object_for_chat_templates(self, tmp_path: Path) -> None:
        """TRL hands messages to the chat template as they are: it would write a text in quotes."""
        (messages,) = (record["messages"] for record in read(tmp_path, "openai", TOOL_ROW))
        assert [messages[at]["tool_calls"] for at in (1, 4)] == [[CALL]] * 2
        (record,) = read(tmp_path, "trl", TOOL_ROW)
        for message in (record["prompt"][1], *record["completion"]):
            (call,) = message["tool_calls"]
            assert list(call["function"]["arguments"].items()) == [("zeta", "Zoë"), ("b", 2)]

    def test_messages_and_tools_are_of_openais_own_types(self, tmp_path: Path) -> None:
        for record in read(tmp_path, "openai", ROW, TOOL_ROW):
            TypeAdapter(list[ChatCompletionMessageParam]).validate_python(record["messages"])
            TypeAdapter(list[ChatCompletionToolParam]).validate_python(record.get("tools", []))
