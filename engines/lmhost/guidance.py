"""Grammars that an answer must obey: compiled once, walked per row with llguidance."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor

from engines.lmhost.errors import bad_request

# Up to this many allowed tokens, logits are made for these tokens only.
FEW = 512
STATES_KEPT = 512
GRAMMARS_KEPT = 256
_WHITESPACE: Any = {"whitespace_flexible": False}


@dataclass(frozen=True)
class Allowed:
    """The tokens that a grammar allows next: their ``ids`` where they are few, else ``forbidden [vocab]`` (bool)."""

    ids: Tensor | None
    forbidden: Tensor | None


class Grammar:
    """A compiled grammar. What it allows and forces after a beginning is remembered, since many rows take the same path."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab
        self._bits = torch.zeros(1, (vocab + 31) // 32, dtype=torch.int32)
        self._states: OrderedDict[tuple[int, ...], Allowed] = OrderedDict()

    def walk(self) -> GrammarWalk:
        """A fresh walk from the start."""
        return GrammarWalk(self, self._matcher.deep_copy())

    def allowed(self, matcher: llguidance.LLMatcher, path: tuple[int, ...]) -> Allowed:
        """What may follow ``path``, at which ``matcher`` stands."""
        known = self._states.get(path)
        if known is not None:
            self._states.move_to_end(path)
            return known
        allowed = self._compute(matcher)
        if allowed.ids is not None:
            self._states[path] = allowed
            if len(self._states) > STATES_KEPT:
                self._states.popitem(last=False)
        return allowed

    def _compute(self, matcher: llguidance.LLMatcher) -> Allowed:
        matcher.unsafe_compute_mask_ptr(self._bits.data_ptr(), self._bits.numel() * 4)
        bits = np.unpackbits(self._bits.numpy().view(np.uint8), bitorder="little", count=self._vocab)
        ids = bits.nonzero()[0]
        if len(ids) <= FEW:
            return Allowed(torch.from_numpy(ids), None)
        return Allowed(None, torch.from_numpy(bits == 0))


class GrammarWalk:
    """One row's way through a grammar."""

    def __init__(self, grammar: Grammar, matcher: llguidance.LLMatcher) -> None:
        self._grammar, self._matcher = grammar, matcher
        self._path: tuple[int, ...] = ()

    @property
    def done(self) -> bool:
        """Nothing can follow."""
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why the walk cannot go on, or an empty string."""
        return self._matcher.get_error()

    def accept(self, token: int) -> None:
        """Step over one chosen token."""
        self._matcher.consume_token(token)
        self._path += (token,)

    def forced(self) -> list[int]:
        """Tokens that must follow, tokenised as the tokenizer would; they count as accepted."""
        tokens = list(self._matcher.compute_ff_tokens())
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._path += tuple(tokens)
        return tokens

    def allowed(self) -> Allowed:
        """The tokens that may follow, the end of the answer among them where the grammar accepts."""
        return self._grammar.allowed(self._matcher, self._path)


class Guidance:
    """Compiles the ``structured_outputs`` and ``response_format`` of requests. One thread at a time."""

    def __init__(self, tokenizer: Any, vocab: int, end_tokens: list[int]) -> None:
        self._vocab = vocab
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab, eos_token=end_tokens)
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, kind: str, value: Any, param: str) -> Grammar:
        """The grammar for a ``kind`` (choice, regex, json, grammar). Raises HostError (400) where it is not a valid one."""
        key = json.dumps([kind, value])
        grammar = self._grammars.get(key)
        if grammar is None:
            grammar = self._grammars[key] = self._compile(kind, value, param)
            if len(self._grammars) > GRAMMARS_KEPT:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return grammar

    def _compile(self, kind: str, value: Any, param: str) -> Grammar:
        try:
            source = _source(kind, value)
        except ValueError as error:
            raise bad_request(f"Not a valid {kind}: {error}", param, "invalid_grammar") from error
        problem = llguidance.LLMatcher.validate_grammar(source, self._tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise bad_request(f"Not a valid {kind}: {problem.strip()}", param, "invalid_grammar")
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise bad_request(f"Not a valid {kind}: {matcher.get_error().strip()}", param, "invalid_grammar")
        return Grammar(matcher, self._vocab)


def _source(kind: str, value: Any) -> str:
    if kind == "choice":
        return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(option) for option in value))
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(value)
    if kind == "json":
        return llguidance.LLMatcher.grammar_from_json_schema(value, defaults=_WHITESPACE)
    return llguidance.LLMatcher.grammar_from_lark(value)
