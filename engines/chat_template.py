"""Conversations to text by a base model's own chat template: one way for LM host, trainer and token counter, so that a model is asked with
the very bytes that it was trained on."""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.rendering import Question, Renderer, TemplateRefused

Message = dict[str, Any]
Tools = Sequence[Mapping[str, Any]] | None
DEEPEST = 200
"""Levels of a tool call's arguments. They are text on the wire, so nothing that has read them there has bounded them."""
_RENDERER = Renderer()
atexit.register(_RENDERER.close)


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that they may call; `asks`: the beginning of an answer follows."""

    messages: Sequence[Message]
    tools: Tools = None
    asks: bool = False


def for_template(message: Mapping[str, Any]) -> Message:
    """A message in OpenAI's shape as chat templates take it: a tool call's arguments are an object there, and text on the wire.

    Raises ValueError where they are not the text of an object.
    """
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_object(call) for call in calls]} if calls else dict(message)


def texts(tokenizer: Any, conversations: Sequence[Conversation]) -> list[str | TemplateRefused]:
    """What the template makes of each, or why it makes nothing. Raises RendererError."""
    try:
        questions = [_question(tokenizer, conversation) for conversation in conversations]
    except ValueError as error:  # the model has no template
        return [TemplateRefused("ValueError", str(error))] * len(conversations)
    return _RENDERER.render(questions)


def prompt_text(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> str:
    """What the model is asked: the conversation and the beginning of its answer. Raises TemplateRefused, RendererError."""
    return _text(tokenizer, Conversation(messages, tools, asks=True))


def whole_text(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> str:
    """A conversation that ends with an answer. Raises TemplateRefused, RendererError."""
    return _text(tokenizer, Conversation(messages, tools))


def _text(tokenizer: Any, conversation: Conversation) -> str:
    (text,) = texts(tokenizer, [conversation])
    if isinstance(text, TemplateRefused):
        raise text
    return text


def _question(tokenizer: Any, conversation: Conversation) -> Question:
    """As transformers' `apply_chat_template` begins: a model may have another template where there are tools."""
    tools = list(conversation.tools) if conversation.tools else None
    template = tokenizer.get_chat_template(None, tools)
    return Question(template, tokenizer.special_tokens_map, conversation.messages, tools, conversation.asks)


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of rendered text: the template has put in what begins and ends a turn."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call are not a JSON object")
    if _is_deep(arguments):
        raise ValueError(_TOO_DEEP)
    return {**call, "function": {**function, "arguments": arguments}}


_TOO_DEEP = f"the arguments of a tool call are nested more than {DEEPEST} levels deep"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for each in level if isinstance(each, dict | list) for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return True
