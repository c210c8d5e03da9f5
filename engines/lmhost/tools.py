"""Tool calls in the text of an answer, as Hermes, Qwen and SmolLM2 write them: read as OpenAI's `tool_calls`, or asked for by a grammar."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.chat_template import whole_text
from engines.rendering import TemplateRefused

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Call = dict[str, Any]
# JSON as chat templates write it (`tojson`), so that a call that is asked for looks like one that was trained on.
_AS_TEMPLATES_WRITE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}


@dataclass(frozen=True)
class Syntax:
    """What stands before and after the JSON of a call, markers included."""

    before: str
    after: str

    def grammar(self, tools: Sequence[dict[str, Any]]) -> str:
        """Lark: exactly one call of one of these tools, whose arguments obey its schema."""
        schema = {"x-guidance": _AS_TEMPLATES_WRITE, "anyOf": [_schema(tool["function"]) for tool in tools]}
        return f"start: {json.dumps(self.before)} call {json.dumps(self.after)}\ncall: %json {json.dumps(schema)}\n"


def syntax_of(tokenizer: Any) -> Syntax | None:
    """How the chat template writes a tool call; None where it says nothing of tools, or writes calls in a way that is not read here.

    Raises RendererError.
    """
    question, answer = {"role": "user", "content": "Look?"}, {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    try:
        text = whole_text(tokenizer, [question, answer], [_TOOL])
        bare = whole_text(tokenizer, [question, answer], None)
    except TemplateRefused:
        return None
    said = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    start = said.rfind(OPEN)
    _, calls = CallReader().take(said[start:], last=True) if start >= 0 else ("", [])
    if text == bare or [_said(call) for call in calls] != [("look", {"at": "it"})]:
        return None
    block = said[start : said.index(CLOSE, start) + len(CLOSE)]
    return Syntax(block[: block.index("{")], block[block.rindex("}") + 1 :])


@dataclass
class CallReader:
    """Divides an answer that comes in pieces into text and tool calls. What is no call stays text."""

    count: int = 0
    """Calls so far."""
    _held: str = field(default="", init=False)

    def take(self, text: str, *, last: bool) -> tuple[str, list[Call]]:
        """The text that can be told now, and the calls that are complete; `last`: nothing follows."""
        self._held += text
        said, calls = "", list[Call]()
        while (start := self._held.find(OPEN)) >= 0:
            found, end = _calls(self._held[start:], last)
            if not found and not last:
                break
            end = start + (end if found else len(OPEN))
            said += self._held[:start].rstrip() if found else self._held[:end]
            self._held = self._held[end:]
            calls += found
            self.count += len(found)
        return said + self._tell(last), calls

    def _tell(self, last: bool) -> str:
        """What is held, but for what begins a call and the space before it. Space after the last call says nothing."""
        beginning = None if last else _BEGINNING.search(self._held)
        at = len(self._held) if beginning is None else beginning.start()
        told, self._held = self._held[:at], self._held[at:]
        return "" if self.count and not told.strip() else told


_BEGINNING = re.compile(rf"\s*(?:{OPEN}.*|{'|'.join(OPEN[:size] for size in range(1, len(OPEN)))}|)\Z", re.DOTALL)


def _calls(text: str, last: bool) -> tuple[list[Call], int]:
    """The calls of the block with which `text` begins, and where it ends; none while it is not complete. The last may lack its CLOSE."""
    body = text[len(OPEN) :].lstrip()
    try:
        read, length = json.JSONDecoder().raw_decode(body)
    except ValueError:
        return [], 0
    rest = body[length:].lstrip()
    given = read if isinstance(read, list) else [read]
    if not (rest.startswith(CLOSE) or (last and not rest)) or not given or not all(map(_is_call, given)):
        return [], 0
    return [_call(one["name"], one.get("arguments") or {}) for one in given], len(text) - len(rest) + len(CLOSE[: len(rest)])


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments") or {}, dict)


def _call(name: str, arguments: dict[str, Any]) -> Call:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def _said(call: Call) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def _schema(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    properties = {"name": {"const": function["name"]}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": ["name", "arguments"], "additionalProperties": False}
