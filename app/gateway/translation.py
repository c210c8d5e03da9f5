"""Between the Responses API and chat completions: the request there, the answer back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from app.schemas.responses import (
    FormatIn,
    FunctionCallIn,
    FunctionOutputIn,
    FunctionTool,
    ImageIn,
    Item,
    MessageIn,
    NamedToolIn,
    Part,
    RefusalIn,
    ResponseCreate,
)

_PASSED = ("temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "service_tier")
Json = dict[str, Any]


def chat_body(asked: ResponseCreate) -> Json:
    """The chat completion that asks the same."""
    body: Json = {"model": asked.model, "messages": _messages(asked)}
    body |= {name: value for name in _PASSED if (value := getattr(asked, name)) is not None}
    if asked.max_output_tokens is not None:
        # Reasoning models know the newer name alone; many hosts know the older one alone.
        body["max_completion_tokens" if asked.reasoning else "max_tokens"] = asked.max_output_tokens
    if asked.tools:
        body["tools"] = [_tool(tool) for tool in asked.tools]
    if asked.tool_choice is not None:
        body["tool_choice"] = _choice(asked.tool_choice)
    if asked.parallel_tool_calls is False:
        body["parallel_tool_calls"] = False
    if asked.reasoning and asked.reasoning.effort is not None:
        body["reasoning_effort"] = asked.reasoning.effort
    if asked.text and asked.text.verbosity is not None:
        body["verbosity"] = asked.text.verbosity
    if asked.text and asked.text.format and asked.text.format.type != "text":
        body["response_format"] = _format(asked.text.format)
    if asked.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _messages(asked: ResponseCreate) -> list[Json]:
    items = [MessageIn(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    messages: list[Json] = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    for item in items:
        _add(messages, item)
    return messages


def _add(messages: list[Json], item: Item) -> None:
    """One item; the calls of one turn are one message of the assistant, together with the text before them."""
    if isinstance(item, FunctionOutputIn):
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
    elif isinstance(item, FunctionCallIn):
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        function = {"name": item.name, "arguments": item.arguments}
        messages[-1].setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
    else:
        # Templates of open models know no developer.
        messages.append({"role": "system" if item.role == "developer" else item.role, "content": _content(item.content)})


def _content(content: str | Iterable[Part]) -> str | list[Json]:
    """One text is text: not every host takes parts."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Part) -> Json:
    if isinstance(part, ImageIn):
        detail = {"detail": part.detail} if part.detail else {}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    return {"type": "text", "text": part.refusal if isinstance(part, RefusalIn) else part.text}


def _tool(tool: FunctionTool) -> Json:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _choice(choice: str | NamedToolIn) -> str | Json:
    return choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}


def _format(wanted: FormatIn) -> Json:
    if wanted.type == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": wanted.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)}


# ------------------------------------------------------------------ back


def opened(asked: ResponseCreate, model_id: str) -> Json:
    """A response that has nothing yet."""
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": model_id,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": asked.reasoning.model_dump() if asked.reasoning else {"effort": None, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": {"type": "text"}, **(asked.text.model_dump(exclude_none=True, by_alias=True) if asked.text else {})},
        "tool_choice": asked.tool_choice.model_dump() if isinstance(asked.tool_choice, NamedToolIn) else asked.tool_choice or "auto",
        "tools": [{"description": None, "strict": None, **tool.model_dump()} for tool in asked.tools or ()],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def answered(response: Json, completion: Mapping[str, Any]) -> Json:
    """The response with what a chat completion says. Raises TypeError and the like for what only looks like one."""
    choice: Mapping[str, Any] = next(iter(completion["choices"]), {})
    message = choice.get("message") or {}
    calls = [call_item(call) for call in message.get("tool_calls") or ()]
    said = [message_item("refusal", message["refusal"])] if message.get("refusal") else []
    if message.get("content") or not (said or calls):
        said = [message_item("output_text", message.get("content") or ""), *said]
    return {**response, "output": [*said, *calls], **ended(choice.get("finish_reason"), completion.get("usage"))}


def ended(finish: str | None, usage: Mapping[str, Any] | None) -> Json:
    """The fields that say how a response has ended."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish or "")
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": _usage(usage) if usage else None,
    }


def message_item(kind: str, text: str, status: str = "completed") -> Json:
    """`kind` is `output_text` or `refusal`."""
    return {"id": new_id("msg"), "type": "message", "status": status, "role": "assistant", "content": [part_of(kind, text)]}


def part_of(kind: str, text: str) -> Json:
    return {"type": kind, "refusal": text} if kind == "refusal" else {"type": kind, "text": text, "annotations": [], "logprobs": []}


def call_item(call: Mapping[str, Any], status: str = "completed") -> Json:
    function = call.get("function") or {}
    said = {"call_id": call.get("id") or new_id("call"), "name": function.get("name") or "", "arguments": function.get("arguments") or ""}
    return {"id": new_id("fc"), "type": "function_call", "status": status, **said}


def new_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


def _usage(usage: Mapping[str, Any]) -> Json:
    given, made = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + made,
    }
