"""When a request is sent again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

from stillhouse._exceptions import retry_after

_ALWAYS = frozenset({408, 429, *range(500, 600)})
_LONGEST_SERVER_WAIT = 60.0


@dataclass(frozen=True)
class RetryPolicy:
    """`retries` after the first try. Waits double from `base_seconds` to `cap_seconds`, with jitter; the server's own wish goes first."""

    retries: int = 2
    base_seconds: float = 0.5
    cap_seconds: float = 8.0

    def wait_after(self, attempt: int, response: httpx.Response | None) -> float | None:
        """Seconds before try `attempt + 1` (attempts count from 0); None when the outcome stands. No response: the connection failed."""
        if attempt >= self.retries:
            return None
        wish = retry_after(response) if response is not None else None
        if response is not None and not _worth_repeating(response.status_code, wish):
            return None
        if wish is not None:
            return wish if wish <= _LONGEST_SERVER_WAIT else None
        span = min(self.cap_seconds, self.base_seconds * float(2**attempt))
        return span * (1 - random.random() / 4)  # noqa: S311 - jitter needs no cryptography


def _worth_repeating(status: int, wish: float | None) -> bool:
    """A conflict is final, unless the server says when to ask again (the first request with this key still runs)."""
    return status in _ALWAYS or (status == 409 and wish is not None)
