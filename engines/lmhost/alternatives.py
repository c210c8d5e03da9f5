"""Finds the texts that a grammar accepts, where they are few."""

from __future__ import annotations

from collections.abc import Iterator

import llguidance

MOST = 256
_MOST_BYTES = 4096
_BYTES = llguidance.LLTokenizer("byte")


def alternatives(source: str) -> list[str] | None:
    """The texts that a grammar accepts, in the order of their bytes; None for none, for more than MOST, and for one that is too long.

    A text that is another one with a line end behind is left out: answers end with an optional one, which would double their number.
    ``source`` is what llguidance compiles; it must have been tried. Every step of the walk finds a text or a fork, so that their number
    bounds it.
    """
    start = llguidance.LLMatcher(_BYTES, source, log_level=0)
    live, found = [(b"", start)], list[bytes]()
    while live:
        forks = list[tuple[bytes, llguidance.LLMatcher]]()
        for text, matcher in live:
            text += _forced(matcher)
            if matcher.is_error() or len(text) > _MOST_BYTES:
                return None
            if matcher.is_accepting():
                found.append(text)
            forks.extend((text + byte, fork) for byte, fork in _forks(matcher))
            if len(found) + len(forks) > 2 * MOST:
                return None
        live = forks
    known = set(found)
    texts = [text for text in sorted(found) if not (text.endswith(b"\n") and text[:-1] in known)]
    try:
        return [text.decode() for text in texts] if 0 < len(texts) <= MOST else None
    except UnicodeDecodeError:
        return None


def _forced(matcher: llguidance.LLMatcher) -> bytes:
    """Step over the bytes that must follow."""
    forced = b""
    while not matcher.is_error() and len(forced) <= _MOST_BYTES and (tokens := matcher.compute_ff_tokens()):
        matcher.consume_tokens(tokens)
        forced += bytes(tokens)
    return forced


def _forks(matcher: llguidance.LLMatcher) -> Iterator[tuple[bytes, llguidance.LLMatcher]]:
    """Each byte that may follow, with a copy of the matcher beyond it."""
    if matcher.is_stopped():
        return
    bias = matcher.compute_logit_bias()
    for byte in range(256):
        if bias[byte]:
            fork = matcher.deep_copy()
            fork.consume_token(byte)
            yield bytes([byte]), fork
