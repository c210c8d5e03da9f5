"""Constrained answers of a loaded program: each call takes its grammar along, and the provider `tune/` puts it into the body.

dspy refuses options that it does not know, so the grammar travels through it inside `metadata`, which it passes on as it is. Being an
option of the call, it is part of dspy's cache key: an answer that was given freely never stands for a constrained one.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.lm15 import AccessPolicy, AsyncOpenAIChatLM, OpenAIChatCompat, OpenAIChatLM, ProviderDefinition, Request, Response

from stillhouse_programs.grammar import Grammar, derive_grammar

FIELD = "structured_outputs"
_CARRIER = "metadata"
_KEPT_GRAMMARS = 1000


@dataclass(frozen=True)
class Constrained:
    """What the calls of one predictor add to their config: the grammar of its answers, while `model` is the one that is asked.

    `model` is an LM's model string, as `tune/sh-…`; another LM that the app sets may not know grammars.
    """

    model: str
    prompt_adapter: dspy.Adapter

    def __call__(self, lm: Any, signature: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Raises NoGrammar for a signature of the caller's own that no grammar holds."""
        if getattr(lm, "model", None) != self.model:
            return {}
        given = {**lm.kwargs, **config}.get(_CARRIER) or {}
        return {_CARRIER: {**given, FIELD: _grammar(signature, self.prompt_adapter)}}


@functools.lru_cache(_KEPT_GRAMMARS)
def _grammar(signature: Any, prompt_adapter: dspy.Adapter) -> Grammar:
    return derive_grammar(signature, prompt_adapter)


# ------------------------------------------------------------------ on the wire


def provider(access: AccessPolicy) -> ProviderDefinition:
    """Return the definition of a provider that takes OpenAI's chat completions, and grammars in the field `structured_outputs`."""
    chat = ProviderDefinition.chat(access, compat=OpenAIChatCompat())
    return dataclasses.replace(chat, adapter=_Chat, async_adapter=_AsyncChat)


def _unpacked(request: Request) -> Request:
    """The request with the grammar in the place where servers look for it."""
    extensions = dict(request.config.extensions or {})
    metadata = extensions.get(_CARRIER)
    if not isinstance(metadata, Mapping) or FIELD not in metadata:
        return request
    extensions[FIELD] = metadata[FIELD]
    extensions[_CARRIER] = {name: value for name, value in metadata.items() if name != FIELD}
    if not extensions[_CARRIER]:
        del extensions[_CARRIER]
    return dataclasses.replace(request, config=dataclasses.replace(request.config, extensions=extensions))


class _Chat(OpenAIChatLM):
    def complete(self, request: Request) -> Response:
        return super().complete(_unpacked(request))

    def stream(self, request: Request) -> Any:
        return super().stream(_unpacked(request))


class _AsyncChat(AsyncOpenAIChatLM):
    async def complete(self, request: Request) -> Response:
        return await super().complete(_unpacked(request))

    def stream(self, request: Request) -> Any:
        return super().stream(_unpacked(request))
