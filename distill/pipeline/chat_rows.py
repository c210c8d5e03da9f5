"""Lines of a file for fine-tuning, in OpenAI's chat shape, as the rows that a trainer takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import orjson

from distill import strict_json
from distill.strict_json import NotStrict

_KNOWN = ("messages", "tools", "parallel_tool_calls")
_SAID = ("role", "content", "name", "weight", "tool_calls", "tool_call_id", "reasoning_content")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_OLD = {"functions": "tools", "function_call": "tool_calls"}
_MOST_MADE = 16_000_000
"""Bytes of the records of one line: they repeat what came before them, so that there may be many times as much as the line has."""

Record = dict[str, Any]


class BadLine(Exception):
    """Says what is wrong with a line, and nothing of what it holds. `field` is a path inside it."""

    def __init__(self, what: str, field: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.field = field


def records(line: bytes) -> list[Record]:
    """What is learned from a conversation: its last turn, and every earlier turn of the assistant that says `weight: 1`.

    Each is a record of its own, since a trainer takes the loss on a record's completion alone. Raises BadLine.
    """
    row = _object(line)
    _only(row, _KNOWN, "")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadLine("needs `messages`, a list of what was said", "messages")
    turns = [_turn(message, f"messages[{at}]") for at, message in enumerate(messages)]
    tools = _tools(row.get("tools"))
    if turns[-1]["role"] != "assistant":
        raise BadLine("does not end with the assistant's answer, which is what is learned", f"messages[{len(turns) - 1}].role")
    learned = list(_learned(messages))
    if not learned:
        raise BadLine("has nothing to learn: every answer of the assistant says `weight: 0`", "messages")
    _check_size(turns, learned, tools)
    return [_record(turns, at, tools) for at in learned]


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        row = strict_json.loads(line)
    except NotStrict as error:
        raise BadLine(error.of_one_line) from None
    if not isinstance(row, dict):
        raise BadLine("is not an object")
    if "prompt" in row and "messages" not in row:
        raise BadLine("is a prompt with a completion; chat models are trained on `messages`", "prompt")
    return row


def _only(found: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for name in found:
        if name not in known:
            instead = f"; use `{_OLD[name]}`" if name in _OLD else ""
            raise BadLine(f"has a field that is not known here{instead}", f"{path}{name[:64]}")


def _turn(message: Any, path: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadLine("has a message that is not an object", path)
    _only(message, _SAID, f"{path}.")
    role = message.get("role")
    if role not in _ROLES:
        raise BadLine(f"has a message whose role is none of {', '.join(_ROLES)}", f"{path}.role")
    if message.get("weight") not in (None, 0, 1):
        raise BadLine("has a weight that is neither 0 nor 1", f"{path}.weight")
    turn = {"role": "system" if role == "developer" else role, "content": _text(message, path)}
    if message.get("tool_calls"):
        turn["tool_calls"] = _calls(message, path)
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := message.get(name)) is not None:
            if not isinstance(value, str):
                raise BadLine("has a value that is no text", f"{path}.{name}")
            turn[name] = value
    return turn


def _text(message: Mapping[str, Any], path: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{path}.content[{at}]") for at, part in enumerate(content))
    raise BadLine("has a message without text", f"{path}.content")


def _part(part: Any, path: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadLine("has a part that is no text: no base model here is trained on anything else", path)


def _calls(message: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    if message["role"] != "assistant" or not isinstance(message["tool_calls"], list):
        raise BadLine("has tool calls that are no list of an assistant's", f"{path}.tool_calls")
    return [_call(call, f"{path}.tool_calls[{at}]") for at, call in enumerate(message["tool_calls"])]


def _call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not _is_object(function.get("arguments")):
        raise BadLine("has a tool call without a name, or whose arguments are not the text of an object", path)
    return {**call, "type": "function"}


def _is_object(arguments: Any) -> bool:
    try:
        found = strict_json.loads(arguments.encode() or b"{}") if isinstance(arguments, str) else None
    except (NotStrict, UnicodeEncodeError):
        return False
    return isinstance(found, dict)


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools):
        raise BadLine("has `tools` that are no list of functions", "tools")
    return tools


def _learned(messages: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    last = len(messages) - 1
    for at, message in enumerate(messages):
        weight = message.get("weight")
        if message["role"] == "assistant" and (weight == 1 or (at == last and weight is None)):
            yield at


def _check_size(turns: Sequence[Record], learned: Sequence[int], tools: list[dict[str, Any]] | None) -> None:
    up_to = list(accumulate(len(orjson.dumps(turn)) for turn in turns))
    made = sum(up_to[at] for at in learned) + len(learned) * len(orjson.dumps(tools))
    if made > _MOST_MADE:
        each = f"{len(learned)} answers to be learned, which with all that comes before each are {made} bytes"
        raise BadLine(f"has {each}; a line may come to {_MOST_MADE}", "messages")


def _record(turns: Sequence[Record], at: int, tools: list[dict[str, Any]] | None) -> Record:
    if at == 0:
        raise BadLine("begins with an answer that is to be learned, and nothing comes before it", "messages[0]")
    made: Record = {"prompt": list(turns[:at]), "completion": [turns[at]]}
    return {**made, "tools": tools} if tools else made
