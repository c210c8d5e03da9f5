"""From chat messages to prompt tokens; the same messages are rendered once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from engines.chat_template import Message, Tools, prompt_text, token_ids
from engines.lmhost.errors import HostError, bad_request
from engines.lmhost.prefix_tree import Tokens
from engines.rendering import RendererError, TemplateRefused

PROMPTS_KEPT = 4096


class Prompts:
    """Renders messages with the tokenizer's chat template; remembers the last ones. Thread-safe."""

    def __init__(self, tokenizer: Any, max_positions: int) -> None:
        self._tokenizer, self._max_positions = tokenizer, max_positions
        self._known: OrderedDict[str, Tokens] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, messages: list[Message], tools: Tools = None) -> Tokens | None:
        """The tokens of messages that were encoded before."""
        return self._find(_key(messages, tools))

    def encode(self, messages: list[Message], tools: Tools = None) -> Tokens:
        """int32 tokens, generation prompt included. Blocks for as long as the template takes.

        Raises HostError: 400 where the template refuses or nothing could follow, 503 where no template can be rendered.
        """
        key = _key(messages, tools)
        tokens = self._find(key)
        if tokens is None:
            tokens = self._encode(messages, tools)
            with self._lock:
                self._known[key] = tokens
                if len(self._known) > PROMPTS_KEPT:
                    self._known.popitem(last=False)
        return tokens

    def plain(self, prompt: str | list[int]) -> Tokens:
        """int32 tokens of a text as it is, or those that were sent. Raises HostError (400)."""
        last = len(self._tokenizer) - 1
        tokens = self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if not all(0 <= token <= last for token in tokens):
            raise bad_request(f"prompt: tokens of this model are 0 to {last}.", "prompt")
        return self._checked(np.array(tokens, dtype=np.int32), "prompt")

    def _find(self, key: str) -> Tokens | None:
        with self._lock:
            tokens = self._known.get(key)
            if tokens is not None:
                self._known.move_to_end(key)
            return tokens

    def _encode(self, messages: list[Message], tools: Tools) -> Tokens:
        try:
            text = prompt_text(self._tokenizer, messages, tools)
        except TemplateRefused as error:
            raise bad_request(f"The chat template refuses the messages: {error}", "messages") from error
        except RendererError as error:
            raise HostError(503, "renderer_unavailable", str(error), retry_after=5) from error
        return self._checked(np.array(token_ids(self._tokenizer, text), dtype=np.int32), "messages")

    def _checked(self, tokens: Tokens, param: str) -> Tokens:
        if len(tokens) == 0:
            raise bad_request("The prompt is empty.", param)
        if len(tokens) >= self._max_positions:
            message = f"The prompt has {len(tokens)} tokens; this model takes at most {self._max_positions - 1}."
            raise HostError(400, "context_length_exceeded", message, param)
        return tokens

    def room(self, tokens: Tokens, asked: int | None) -> int:
        """How many tokens the answer may have. Raises HostError (400) where ``asked`` does not fit."""
        room = self._max_positions - len(tokens)
        if asked is not None and asked > room:
            message = f"max_tokens {asked} and a prompt of {len(tokens)} tokens exceed {self._max_positions} tokens."
            raise HostError(400, "context_length_exceeded", message, "max_tokens")
        return asked or room


def _key(messages: list[Message], tools: Tools) -> str:
    return json.dumps([messages, tools])
