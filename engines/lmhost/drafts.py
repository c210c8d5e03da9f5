"""Guesses how an answer goes on from how earlier answers went on.

Answers in a fixed form repeat long stretches. A guess is computed together with what must be computed anyway, and each of its
tokens counts only if the row's own draw chooses the same one: answers stay what they would be, fewer passes make them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engines.lmhost.rows import Row

# Guess from the last tokens of the answer, at most so many tokens ahead, once a continuation was right this often in a row.
CONTEXT = 3
MAX_DRAFT = 8
SURE = 2
MOST = 4
CONTEXTS_KEPT = 65536

Context = tuple[int, ...]


@dataclass
class _Guess:
    token: int
    trust: int = 1


@dataclass
class Drafts:
    """What followed what, by LoRA adapter. ``ends`` are the tokens that end an answer; these are never guessed."""

    ends: frozenset[int]
    _seen: dict[int, dict[Context, _Guess]] = field(default_factory=dict)

    def guess(self, row: Row) -> list[int]:
        """Up to MAX_DRAFT tokens that probably follow; none for a row with a grammar, which knows itself what it forces."""
        seen = self._seen.get(row.adapter_uid)
        if seen is None or row.walk is not None:
            return []
        tokens, most = row.out[-CONTEXT:], min(MAX_DRAFT, row.request.max_tokens - len(row.out) - 1)
        draft: list[int] = []
        while len(draft) < most and (guess := seen.get(tuple(tokens[-CONTEXT:]))) is not None and guess.trust >= SURE:
            if guess.token in self.ends:
                break
            draft.append(guess.token)
            tokens.append(guess.token)
        return draft

    def learn(self, row: Row) -> None:
        """Take note of a finished answer."""
        if row.walk is not None:
            return
        seen = self._seen.setdefault(row.adapter_uid, {})
        if len(seen) > CONTEXTS_KEPT:
            seen.clear()
        for at, token in enumerate(row.out):
            _note(seen, tuple(row.out[max(0, at - CONTEXT) : at]), token)

    def forget(self, adapter: int) -> None:
        """Drop what one LoRA adapter said."""
        self._seen.pop(adapter, None)


def _note(seen: dict[Context, _Guess], context: Context, token: int) -> None:
    guess = seen.setdefault(context, _Guess(token, 0))
    if guess.token == token:
        guess.trust = min(guess.trust + 1, MOST)
    elif guess.trust > 1:
        # A wrong guess must earn its trust anew.
        guess.trust = 1
    else:
        seen[context] = _Guess(token)
