"""Conversations to text by a base model's own chat template: one way for LM host, trainer and token counter, so that a model is asked with
the very bytes that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engines.template_bounds import bounded, check_length

Message = dict[str, Any]
Tools = Sequence[Mapping[str, Any]] | None


def for_template(message: Mapping[str, Any]) -> Message:
    """A message in OpenAI's shape as chat templates take it: a tool call's arguments are an object there, and text on the wire.

    Raises ValueError where they are not the text of an object.
    """
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_object(call) for call in calls]} if calls else dict(message)


def prompt_text(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> str:
    """What the model is asked: the conversation and the beginning of its answer. Raises what the template raises."""
    return _rendered(tokenizer, messages, tools, add_generation_prompt=True)


def whole_text(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> str:
    """A conversation that ends with an answer. Raises what the template raises."""
    return _rendered(tokenizer, messages, tools, add_generation_prompt=False)


def _rendered(tokenizer: Any, messages: Sequence[Message], tools: Tools, *, add_generation_prompt: bool) -> str:
    with bounded():
        text = str(
            tokenizer.apply_chat_template(list(messages), tools=tools or None, add_generation_prompt=add_generation_prompt, tokenize=False)
        )
    check_length(text)
    return text


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of rendered text: the template has put in what begins and ends a turn."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.loads(function["arguments"] or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call are not a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}
