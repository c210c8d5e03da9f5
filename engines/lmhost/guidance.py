"""Grammars that an answer must obey: compiled once, walked per row with llguidance."""

from __future__ import annotations

import json
from collections import OrderedDict
from copy import copy
from typing import Any

import llguidance
import numpy as np
import torch

from engines.lmhost.ahead import Ahead
from engines.lmhost.alternatives import alternatives
from engines.lmhost.closed import ClosedGrammar
from engines.lmhost.errors import bad_request
from engines.lmhost.grammar_trial import GrammarTrial
from engines.lmhost.walks import Allowed, Grammar

# Up to this many allowed tokens, logits are made for these tokens only.
FEW = 512
STATES_KEPT = 512
GRAMMARS_KEPT = 256
_LONGEST_PROBLEM = 500
_WHITESPACE: Any = {"whitespace_flexible": False}


class OpenGrammar:
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

    def __init__(self, grammar: OpenGrammar, matcher: llguidance.LLMatcher) -> None:
        self._grammar, self._matcher = grammar, matcher
        self._path: tuple[int, ...] = ()

    @property
    def done(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        return self._matcher.get_error()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._path += (token,)

    def forced(self) -> list[int]:
        tokens = list(self._matcher.compute_ff_tokens())
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._path += tuple(tokens)
        return tokens

    def allowed(self) -> Allowed:
        return self._grammar.allowed(self._matcher, self._path)

    def ahead(self, most: int, depth: int) -> Ahead:
        """Nothing: too many tokens may follow to compute them all."""
        return Ahead()


class Guidance:
    """Compiles the ``structured_outputs`` and ``response_format`` of requests. One thread at a time."""

    def __init__(self, tokenizer: Any, vocab: int, end_tokens: list[int]) -> None:
        self._vocab, self._ends = vocab, end_tokens
        self._speller = _plain(tokenizer)
        described: dict[str, Any] = {"tokenizer": self._speller.to_str(), "n_vocab": vocab, "eos_token": end_tokens}
        self._tokenizer = llguidance.LLTokenizer(**described)
        self._trial = GrammarTrial(described)
        # Part of an answer that reads as a special token, as the end of a turn, is text all the same.
        self._speller.encode_special_tokens = True
        self._known: OrderedDict[str, Grammar | str] = OrderedDict()

    def compile(self, kind: str, value: Any, param: str) -> Grammar:
        """The grammar for a ``kind`` (choice, regex, json, grammar). Raises HostError (400) where it is not a valid one, or takes too much
        to compile."""
        key = json.dumps([kind, value])
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._compile(kind, value)
            if len(self._known) > GRAMMARS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        if isinstance(known, str):
            raise bad_request(f"Not a valid {kind}: {known}", param, "invalid_grammar")
        return known

    def written(self, token: int) -> dict[str, Any]:
        """How OpenAI's log-probabilities name a token: as text and as bytes, which special tokens have none of."""
        if self._tokenizer.is_special_token(token):
            return {"token": self._speller.id_to_token(token), "bytes": None}
        raw = self._tokenizer.decode_bytes([token])
        return {"token": raw.decode(errors="replace"), "bytes": list(raw)}

    def close(self) -> None:
        """End the process in which grammars are tried."""
        self._trial.close()

    def _compile(self, kind: str, value: Any) -> Grammar | str:
        """The grammar, or what is wrong with it."""
        try:
            source = _source(kind, value)
        except ValueError as error:
            return str(error)[:_LONGEST_PROBLEM]
        if problem := self._trial.problem(source):
            return problem.strip()[:_LONGEST_PROBLEM]
        texts = alternatives(source)
        if texts is not None:
            return ClosedGrammar([self._speller.encode(text, add_special_tokens=False).ids for text in texts], self._ends)
        return OpenGrammar(llguidance.LLMatcher(self._tokenizer, source, log_level=0), self._vocab)


def _plain(tokenizer: Any) -> Any:
    """A copy of the tokenizer's inner one that neither pads nor cuts, as ``llguidance.hf`` takes it."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return backend


def _source(kind: str, value: Any) -> str:
    if kind == "choice":
        return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(option) for option in value))
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(value)
    if kind == "json":
        return llguidance.LLMatcher.grammar_from_json_schema(value, defaults=_WHITESPACE)
    return llguidance.LLMatcher.grammar_from_lark(value)
