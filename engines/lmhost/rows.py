"""Requests and their rows: one row is one sample on its way through the engine."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from engines.lmhost.errors import HostError
from engines.lmhost.lora import LoraAdapter
from engines.lmhost.prefix_tree import Hit, Tokens
from engines.lmhost.sampling import Chosen, Draw, Sampling, forced, uniform
from engines.lmhost.walks import Grammar, Walk

Finish = Literal["stop", "length"]
_arrivals = itertools.count(1)


@dataclass(frozen=True)
class Piece:
    """What happened to one sample: new text, and at its end how it finished or why it failed."""

    sample: int
    text: str
    finish: Finish | None = None
    error: HostError | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0
    chosen: tuple[Chosen, ...] = ()
    """The tokens of the text, where the request asks for log-probabilities."""


Listener = Callable[[Piece], None]


@dataclass(frozen=True)
class Request:
    """One sample to make. ``listener`` is called on the engine's thread: with every new text if ``stream``, else once."""

    prompt: Tokens
    adapter: LoraAdapter | None
    sampling: Sampling
    max_tokens: int
    listener: Listener
    sample: int = 0
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    stream: bool = False
    logprobs: int | None = None
    """How many of the likeliest tokens to tell beside each; None asks for no log-probabilities."""
    background: bool = False
    """Nobody waits for it at once: it lets a trainer on the same processor go first."""


@dataclass(eq=False)
class Row:
    """A request in the engine. ``computed`` tokens have keys and values: the ``hits`` it shares, then ``own`` tokens in its slot."""

    request: Request
    walk: Walk | None = None
    out: list[int] = field(default_factory=list)
    slot: int | None = None
    shared: list[Hit] = field(default_factory=list)
    shared_length: int = 0
    own: int = 0
    cached: int | None = None
    kept: bool = False
    finish: Finish | None = None
    cancelled: bool = False
    chosen: list[Chosen] = field(default_factory=list)
    text_sent: int = 0
    chosen_sent: int = 0
    arrival: int = field(default_factory=lambda: next(_arrivals))
    since: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0
    _digest: bytes = b""
    _digested: int = -1

    @property
    def adapter_uid(self) -> int:
        """0 is the base model."""
        return self.request.adapter.uid if self.request.adapter else 0

    @property
    def length(self) -> int:
        """Tokens so far, prompt and answer."""
        return len(self.request.prompt) + len(self.out)

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are known."""
        return self.shared_length + self.own

    @property
    def group(self) -> tuple[int, ...]:
        """Rows sorted by this lie so that one LoRA adapter's rows, and among them the users of one shared stretch, are neighbours."""
        return (self.adapter_uid, *itertools.chain.from_iterable((id(hit.kv), hit.length) for hit in self.shared))

    def tokens(self, start: int = 0) -> Tokens:
        """Prompt and answer from ``start`` on."""
        prompt = self.request.prompt
        if start >= len(prompt):
            return np.array(self.out[start - len(prompt) :], dtype=np.int32)
        return np.concatenate((prompt[start:], np.array(self.out, dtype=np.int32)))

    def append(self, chosen: Sequence[Chosen]) -> None:
        """Go on with these tokens, as far as the request lets an answer go."""
        chosen = chosen[: max(self.request.max_tokens - len(self.out), 0)]
        self.out.extend(each.token for each in chosen)
        if self.request.logprobs is not None:
            self.chosen.extend(chosen)

    def draw(self, ahead: int = 0) -> Draw:
        """What decides the next token, or the one ``ahead`` places after it."""
        sampling = self.request.sampling
        return Draw(sampling, uniform(sampling.seed, self.request.sample, len(self.out) + ahead) if sampling.temperature > 0 else 0.0)

    def digest(self, beyond: Sequence[int] = ()) -> bytes:
        """Identifies LoRA adapter and all tokens so far, and those ``beyond`` them; extended token by token, so that any two ways to a
        sequence agree."""
        if self._digested < 0:
            head = self.adapter_uid.to_bytes(8, "big") + self.request.prompt.tobytes()
            self._digest, self._digested = hashlib.blake2b(head, digest_size=16).digest(), 0
        self._digest = _extended(self._digest, self.out[self._digested :])
        self._digested = len(self.out)
        return _extended(self._digest, beyond)


def _extended(digest: bytes, tokens: Sequence[int]) -> bytes:
    for token in tokens:
        digest = hashlib.blake2b(digest + token.to_bytes(4, "big"), digest_size=16).digest()
    return digest


class AnswerText:
    """Turns a row's tokens into text, finds stop strings, and applies the rules that end an answer."""

    def __init__(self, tokenizer: Any, end_tokens: list[int], jump: bool = True) -> None:
        self._tokenizer, self.ends, self._jump = tokenizer, frozenset(end_tokens), jump

    def begin(self, row: Row) -> None:
        """Start the grammar's walk and take what it forces from the start."""
        if row.request.grammar is not None:
            row.walk = row.request.grammar.walk()
            self._follow(row, row.walk)

    def take(self, row: Row, chosen: Chosen) -> None:
        """Append a chosen token and what it forces; sets ``row.finish`` where the answer ends."""
        row.append([chosen])
        if chosen.token in self.ends:
            row.finish = "stop"
        elif row.walk is not None:
            row.walk.accept(chosen.token)
            self._follow(row, row.walk)
        if row.finish is None and row.request.stop and self._stop_at(row) is not None:
            row.finish = "stop"
        if row.finish is None and len(row.out) >= row.request.max_tokens:
            row.finish = "length"

    def _follow(self, row: Row, walk: Walk) -> None:
        """Take what the grammar forces now; an answer that fills the grammar ends."""
        tokens = walk.forced() if self._jump and not walk.done else []
        cut = len(row.out) + len(tokens) > row.request.max_tokens
        row.append([forced(token, row.request.logprobs) for token in tokens])
        if walk.error:
            raise HostError(500, "grammar_failed", f"The grammar stopped: {walk.error.strip()}")
        if cut:
            row.finish = "length"
        elif walk.done:
            row.finish = "stop"

    def text(self, row: Row) -> str:
        """The answer so far, cut at the first stop string."""
        text = self._decode(row.out)
        cut = _first(text, row.request.stop)
        return text if cut is None else text[:cut]

    def news(self, row: Row) -> tuple[str, tuple[Chosen, ...]]:
        """Text that has not been sent, and its tokens. While the row runs, the beginning of a stop string and a broken character are held
        back."""
        text = self.text(row)
        if row.finish is None:
            text = text[: len(text) - _held_back(text, row.request.stop)]
        news = text[row.text_sent :]
        row.text_sent = max(row.text_sent, len(text))
        first, row.chosen_sent = row.chosen_sent, self._covered(row)
        return news, tuple(row.chosen[first : row.chosen_sent])

    def _covered(self, row: Row) -> int:
        """How many tokens the text that has been sent takes whole; at the end those without text too, as the one that ends an answer."""
        if not row.chosen or (row.finish and len(self._decode(row.out)) == row.text_sent):
            return len(row.chosen)
        count = row.chosen_sent
        while count < len(row.chosen) and len(self._decode(row.out[: count + 1])) <= row.text_sent:
            count += 1
        return count

    def _stop_at(self, row: Row) -> int | None:
        return _first(self._decode(row.out), row.request.stop)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _first(text: str, stops: tuple[str, ...]) -> int | None:
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(places) if places else None


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may turn out to be a stop string's beginning or part of a character."""
    broken = len(text) - len(text.rstrip("\ufffd"))
    return max(broken, *(_overlap(text, stop) for stop in stops), 0)


def _overlap(text: str, stop: str) -> int:
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
