"""Training records in the shapes that others train with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Literal

import orjson

RecordFormat = Literal["trl", "openai"]


def records(file: BinaryIO, form: RecordFormat) -> Iterator[bytes]:
    """The lines of a stored training file in another shape. Loss is meant for the last assistant turn alone in both."""
    shape = _openai if form == "openai" else _trl
    with file:
        for line in file:
            yield orjson.dumps(shape(orjson.loads(line))) + b"\n"


def _trl(row: Mapping[str, Any]) -> dict[str, Any]:
    """TRL's conversational prompt-completion: it takes the loss on the completion, and gives messages to the chat template as they are."""
    sides = {name: [_for_template(message) for message in row[name]] for name in ("prompt", "completion")}
    return {**sides, **({"tools": row["tools"]} if "tools" in row else {})}


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """Chat templates take the arguments of a tool call as an object, which are text on the wire."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_object(call) for call in calls]} if calls else message


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"] or "{}")}}


def _arguments(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # earlier releases wrote NaN and Infinity
        return json.loads(text, parse_constant=lambda _: None)


def _openai(row: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI takes the loss on every assistant turn that does not say otherwise: demos in the prompt do."""
    prompt = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in row["prompt"]]
    tools = {"tools": row["tools"]} if "tools" in row else {}
    return {"messages": [*prompt, *row["completion"]], **tools}
