"""The provider `tune/` of dspy: chat completions, with what dspy has no option for.

dspy refuses options that it does not know, so they travel through it inside `metadata`, which it passes on as it is, and are put where
the server looks for them. Being options of the call, they are part of dspy's cache key: an answer that was given freely never stands for
a constrained one.
"""

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, TypeVar

from dspy.lm15 import (
    AccessPolicy,
    AsyncOpenAIChatLM,
    InvalidRequestError,
    OpenAIChatCompat,
    OpenAIChatLM,
    ProviderDefinition,
    Request,
    Response,
)

Chat = TypeVar("Chat", OpenAIChatLM, AsyncOpenAIChatLM)

PROVIDER = "tune"
GRAMMAR = "structured_outputs"
DEFAULT_BOUND = "stillhouse-default-bound"
"""Says that `max_tokens` is a default: without room for it, the call is made once more without it."""
PROMPT_CHECK = "stillhouse-prompt-check"
OFF = "off"
_CARRIER = "metadata"
_OWN = frozenset({GRAMMAR, DEFAULT_BOUND, PROMPT_CHECK})


def carried(options: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """An option of dspy's that takes `added` along, beside the metadata that `options` have."""
    return {_CARRIER: {**(options.get(_CARRIER) or {}), **added}}


def provider(access: AccessPolicy) -> ProviderDefinition:
    """Return the definition of a provider that takes OpenAI's chat completions, and what is carried."""
    chat = ProviderDefinition.chat(access, compat=OpenAIChatCompat())
    return dataclasses.replace(chat, adapter=_Chat, async_adapter=_AsyncChat)


def _unpacked(chat: Chat, request: Request) -> tuple[Chat, Request, Request | None]:
    """Who is asked, the request as it is sent, and, where its bound is a default, the one without it."""
    extensions = dict(request.config.extensions or {})
    metadata = extensions.get(_CARRIER)
    if not isinstance(metadata, Mapping) or metadata.keys().isdisjoint(_OWN):
        return chat, request, None
    extensions[_CARRIER] = {name: value for name, value in metadata.items() if name not in _OWN}
    if not extensions[_CARRIER]:
        del extensions[_CARRIER]
    if GRAMMAR in metadata:
        extensions[GRAMMAR] = metadata[GRAMMAR]
    config = dataclasses.replace(request.config, extensions=extensions)
    sent = dataclasses.replace(request, config=config)
    unbounded = dataclasses.replace(request, config=dataclasses.replace(config, max_tokens=None)) if metadata.get(DEFAULT_BOUND) else None
    return _unchecked(chat) if metadata.get(PROMPT_CHECK) == OFF else chat, sent, unbounded


def _unchecked(chat: Chat) -> Chat:
    headers = {**dict(chat.access.headers), PROMPT_CHECK: OFF}
    return dataclasses.replace(chat, access=dataclasses.replace(chat.access, headers=tuple(headers.items())))


class _Chat(OpenAIChatLM):
    def complete(self, request: Request) -> Response:
        chat, sent, unbounded = _unpacked(self, request)
        try:
            return OpenAIChatLM.complete(chat, sent)
        except InvalidRequestError:
            if unbounded is None:
                raise
        return OpenAIChatLM.complete(chat, unbounded)

    def stream(self, request: Request) -> Iterator[Any]:
        chat, sent, unbounded = _unpacked(self, request)
        begun = False
        try:
            for event in OpenAIChatLM.stream(chat, sent):
                begun = True
                yield event
            return
        except InvalidRequestError:
            if begun or unbounded is None:
                raise
        yield from OpenAIChatLM.stream(chat, unbounded)


class _AsyncChat(AsyncOpenAIChatLM):
    async def complete(self, request: Request) -> Response:
        chat, sent, unbounded = _unpacked(self, request)
        try:
            return await AsyncOpenAIChatLM.complete(chat, sent)
        except InvalidRequestError:
            if unbounded is None:
                raise
        return await AsyncOpenAIChatLM.complete(chat, unbounded)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        chat, sent, unbounded = _unpacked(self, request)
        begun = False
        try:
            async for event in AsyncOpenAIChatLM.stream(chat, sent):
                begun = True
                yield event
            return
        except InvalidRequestError:
            if begun or unbounded is None:
                raise
        async for event in AsyncOpenAIChatLM.stream(chat, unbounded):
            yield event
