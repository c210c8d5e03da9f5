"""From chat messages to prompt tokens; the same messages are rendered once."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
from jinja2 import TemplateError

from engines.chat_template import Message, Tools, prompt_text, token_ids
from engines.lmhost.errors import HostError, bad_request
from engines.lmhost.prefix_tree import Tokens

PROMPTS_KEPT = 4096


class Prompts:
    """Renders messages with the tokenizer's chat template; remembers the last ones."""

    def __init__(self, tokenizer: Any, max_positions: int) -> None:
        self._tokenizer, self._max_positions = tokenizer, max_positions
        self._known: OrderedDict[str, Tokens] = OrderedDict()

    def encode(self, messages: list[Message], tools: Tools = None) -> Tokens:
        """int32 tokens, generation prompt included. Raises HostError (400) where the template refuses or nothing could follow."""
        key = json.dumps([messages, tools])
        tokens = self._known.get(key)
        if tokens is None:
            tokens = self._known[key] = self._encode(messages, tools)
            if len(self._known) > PROMPTS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return tokens

    def _encode(self, messages: list[Message], tools: Tools) -> Tokens:
        try:
            text = prompt_text(self._tokenizer, messages, tools)
        except TemplateError as error:
            raise bad_request(f"The chat template refuses the messages: {error}", "messages") from error
        tokens = np.array(token_ids(self._tokenizer, text), dtype=np.int32)
        if not 0 < len(tokens) < self._max_positions:
            message = f"The prompt has {len(tokens)} tokens; this model takes at most {self._max_positions - 1}."
            raise HostError(400, "context_length_exceeded", message, "messages")
        return tokens

    def room(self, tokens: Tokens, asked: int | None) -> int:
        """How many tokens the answer may have. Raises HostError (400) where ``asked`` does not fit."""
        room = self._max_positions - len(tokens)
        if asked is not None and asked > room:
            message = f"max_tokens {asked} and a prompt of {len(tokens)} tokens exceed {self._max_positions} tokens."
            raise HostError(400, "context_length_exceeded", message, "max_tokens")
        return asked or room
