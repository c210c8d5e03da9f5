"""Native features of LMs: tools, tool calls and reasoning that go beside the text of a message, as dspy plans them.

A stored call holds tools as `{"name", "desc", "args"}` and tool calls as `{"tool_calls": [{"id", "name", "args"}]}`: all that a prompt says
of them. Rows have them in the shape of OpenAI's chat completions.
"""

import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import dspy
import pydantic

Feature: TypeAlias = Literal["tools", "reasoning"]
FEATURES: tuple[str, ...] = get_args(Feature)
Message: TypeAlias = dict[str, Any]

_PLAIN = (str, int, float, bool, type(None))


# ------------------------------------------------------------------ calls as they are stored


def storable(value: Any) -> Any:
    """`value` with tools, tool calls and images as JSON that says all of them; dspy's own leaves out what a tool takes and calls' ids."""
    if isinstance(value, float) and not math.isfinite(value):
        return None  # as in all that a runner sends
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dspy.Tool):
        return {"name": value.name, "desc": value.desc, "args": value.args}
    if isinstance(value, dspy.ToolCalls):
        return _stored_calls(value)
    if isinstance(value, dspy.Image):
        return {"url": value.url}
    if isinstance(value, dspy.History):
        return {"messages": [storable(message) for message in value.messages]}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return {key: storable(item) for key, item in value.items()} if type(value) is dict else value


def _stored_calls(calls: dspy.ToolCalls) -> dict[str, Any]:
    made = [{"id": call.id, "name": call.name, "args": storable(call.args)} for call in calls.tool_calls]
    if calls.tool_call_results is None:
        return {"tool_calls": made}
    results = pydantic.TypeAdapter(type(calls.tool_call_results)).dump_python(calls.tool_call_results, mode="json")
    return {"tool_calls": made, "tool_call_results": results}


def restored(signature: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a stored call with tools and histories as dspy's objects."""
    return {name: _restored(signature.input_fields[name].annotation, value) for name, value in inputs.items()}


def stands_for(annotation: Any, text: str) -> Any:
    """What stands in a prompt for a value that is not known yet: `text`, or nothing where text is no value."""
    if annotation is dspy.History:
        return dspy.History(messages=[])
    return [] if typing.get_origin(annotation) is list and typing.get_args(annotation) == (dspy.Tool,) else text


def _restored(annotation: Any, value: Any) -> Any:
    if annotation is dspy.Tool:
        return _tool(value)
    if typing.get_origin(annotation) is list and typing.get_args(annotation) == (dspy.Tool,) and isinstance(value, list):
        return [_tool(item) for item in value]
    if annotation is dspy.History and isinstance(value, Mapping):
        return dspy.History.model_validate(dict(value))
    return value


def _tool(stored: Any) -> Any:
    """A tool that says what the stored one said, and does nothing."""
    if not (isinstance(stored, Mapping) and {"name", "args"} <= stored.keys()):
        return stored

    def nothing(**_: Any) -> None: ...

    return dspy.Tool(nothing, name=stored["name"], desc=stored.get("desc") or "", args=dict(stored["args"] or {}), arg_types={})


def calls_said(calls: dspy.ToolCalls) -> list[tuple[str, Any]]:
    """What tool calls say, whatever their ids."""
    return [(call.name, storable(call.args)) for call in calls.tool_calls]


# ------------------------------------------------------------------ answers as messages


def answer_message(content: str, calls: dspy.ToolCalls | None, reasoning: str | None) -> Message:
    """One assistant message in OpenAI's shape; what there is none of is left out."""
    message: Message = {"role": "assistant", "content": content}
    if calls is not None and calls.tool_calls:
        message["tool_calls"] = [_openai_call(call) for call in calls.tool_calls]
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    return message


def _openai_call(call: Any) -> dict[str, Any]:
    arguments = json.dumps(storable(call.args), ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def numbered(messages: Sequence[Message]) -> list[Message]:
    """The messages with the ids of tool calls counted from `call_0`: LM hosts give random ones, and equal rows are to be equal."""
    known: dict[Any, str] = {}
    made: list[Message] = []
    for message in messages:
        message = dict(message)
        if message.get("tool_calls"):
            message["tool_calls"] = [{**call, "id": _number(known, call.get("id"))} for call in message["tool_calls"]]
        if message.get("tool_call_id"):
            message["tool_call_id"] = _number(known, message["tool_call_id"])
        made.append(message)
    return made


def _number(known: dict[Any, str], given: Any) -> str:
    # Calls without an id are different calls.
    return known.setdefault(object() if given is None else given, f"call_{len(known)}")
