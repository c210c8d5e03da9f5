"""Lines of files for fine-tuning: what is learned from each, and what is said of one that cannot be used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distill.pipeline.chat_rows import BadLine, records

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "ho"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


def read(*messages: Any, **more: Any) -> list[dict[str, Any]]:
    return records(json.dumps({"messages": messages, **more}).encode())


class TestRecords:
    def test_the_last_answer_is_learned_and_what_came_before_is_its_prompt(self) -> None:
        earlier = {"role": "assistant", "content": "demo"}
        assert read(SYSTEM, ASKED, earlier, ASKED, SAID) == [{"prompt": [SYSTEM, ASKED, earlier, ASKED], "completion": [SAID]}]

    def test_an_earlier_answer_is_learned_where_it_says_so(self) -> None:
        first, second = read(ASKED, {**SAID, "weight": 1}, ASKED, SAID)
        assert (first["prompt"], first["completion"]) == ([ASKED], [SAID])
        assert (second["prompt"], second["completion"]) == ([ASKED, SAID, ASKED], [SAID])
        (only,) = read(ASKED, {**SAID, "weight": 1}, ASKED, {**SAID, "weight": 0})
        assert only["prompt"] == [ASKED]

    def test_tools_and_their_calls(self) -> None:
        back = {"role": "tool", "tool_call_id": "c1", "content": "found"}
        asked = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        (made,) = read(ASKED, asked, back, SAID, tools=[TOOL], parallel_tool_calls=False)
        assert made["tools"] == [TOOL]
        assert made["prompt"][1:] == [{"role": "assistant", "content": "", "tool_calls": [CALL]}, back]

    def test_parts_of_text_are_joined_and_a_developer_is_the_system(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        (made,) = read({"role": "developer", "content": parts}, ASKED, SAID)
        assert made["prompt"][0] == {"role": "system", "content": "ab"}


class TestFaults:
    @pytest.mark.parametrize(
        ("messages", "more", "field"),
        [
            ([], {}, "messages"),
            ([ASKED], {}, "messages[0].role"),
            ([SAID], {}, "messages[0]"),
            ([ASKED, {**SAID, "weight": 0}], {}, "messages"),
            ([ASKED, {**SAID, "weight": 0.5}], {}, "messages[1].weight"),
            ([ASKED, {"role": "robot", "content": "x"}], {}, "messages[1].role"),
            ([ASKED, {"role": "assistant"}], {}, "messages[1].content"),
            ([ASKED, {**SAID, "function_call": {}}], {}, "messages[1].function_call"),
            ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, SAID], {}, "messages[0].content[0]"),
            ([ASKED, {**SAID, "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}], {}, "messages[1].tool_calls[0]"),
            ([{**ASKED, "tool_calls": [CALL]}, SAID], {}, "messages[0].tool_calls"),
            ([{**ASKED, "name": 1}, SAID], {}, "messages[0].name"),
            (["x", SAID], {}, "messages[0]"),
            ([ASKED, SAID], {"tools": "x"}, "tools"),
            ([ASKED, SAID], {"functions": []}, "functions"),
        ],
    )
    def test_name_the_place_and_repeat_nothing(self, messages: list[Any], more: dict[str, Any], field: str) -> None:
        with pytest.raises(BadLine) as raised:
            read(*messages, **more)
        assert raised.value.field == field
        assert "hi" not in raised.value.what.split()

    @pytest.mark.parametrize("arguments", ["[" * 200_000, '{"a":' * 500 + "1" + "}" * 500])
    def test_arguments_without_a_bottom(self, arguments: str) -> None:
        with pytest.raises(BadLine) as raised:
            read(ASKED, {**SAID, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]})
        assert raised.value.field == "messages[1].tool_calls[0]"

    def test_a_line_without_a_bottom(self) -> None:
        deep = b'{"messages": [{"role": "user", "content": "hi"}], "tools": ' + b"[" * 300 + b"]" * 300 + b"}"
        with pytest.raises(BadLine, match="more than 100 levels deep"):
            records(deep)

    def test_a_line_that_would_become_many_times_as_much(self) -> None:
        """Every answer that is learned repeats all that came before it."""
        turns = [{"role": "assistant", "content": "ho", "weight": 1}] * 1000
        with pytest.raises(BadLine, match="1000 answers to be learned, which with all that comes before each are") as raised:
            read({"role": "user", "content": "hi " * 6000}, *turns)
        assert raised.value.field == "messages"

    @pytest.mark.parametrize("line", [b"{", b"[]", b'"x"', b"{}", b'{"prompt": "a", "completion": "b"}', b"\xff"])
    def test_lines_that_are_no_conversation(self, line: bytes) -> None:
        with pytest.raises(BadLine):
            records(line)
