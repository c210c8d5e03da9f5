"""What an answer says it took. The LM host is a stranger, perhaps the user's own: what can be no count is not taken for one."""

from __future__ import annotations

from typing import Any

MOST_TOKENS = 10**9
"""Of one answer; no LM comes near."""


def read_usage(said: Any) -> dict[str, Any]:
    """Its counts; none, as if the host had said nothing, where one is nonsense: below zero it would give money back."""
    usage = said if isinstance(said, dict) else {}
    given = {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if usage.get(name) is not None}
    if not given or not all(map(_is_count, given.values())):
        return {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return {**given, "prompt_tokens_details": {"cached_tokens": cached}} if _is_count(cached) else given


def _is_count(said: Any) -> bool:
    return type(said) is int and 0 <= said <= MOST_TOKENS
