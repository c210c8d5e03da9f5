"""Where a call goes, within which limits, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from distill.settings import LimitSettings, TimerSettings

ERROR_HEADER = "stillhouse-error"
ROLLOUT_HEADER = "stillhouse-rollout"
CALL_HEADER = "stillhouse-call"
Price = Callable[[Mapping[str, Any]], float]


def api_of(base_url: str) -> str:
    """A connection's `base_url` is the OpenAI base, with its /v1; a bare host gets /v1."""
    base = base_url.rstrip("/")
    return f"{base}{'' if urlsplit(base).path else '/v1'}"


@dataclass(frozen=True, slots=True)
class Api:
    """One of OpenAI's routes at LM hosts: where it is below the base URL, and the field that holds the list of answers in each reply."""

    path: str
    answers: str


CHAT = Api("chat/completions", "choices")
COMPLETIONS = Api("completions", "choices")
EMBEDDINGS = Api("embeddings", "data")


@dataclass(frozen=True)
class Target:
    """One model of one connection. `extra_body` is the operator's and wins over what a program sends; `max_in_flight` holds for the
    connection as a whole, whoever calls."""

    connection: str
    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    max_in_flight: int = 16
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = field(default=None, repr=False, compare=False)
    """Of the usage of one answer, in US dollars; None where nobody knows it."""
    read_key: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    """Where the key is asked for at each call, in place of `api_key`: it may block, and raise StillhouseError."""
    public_only: bool = False
    """A user named its address, so that the host has to be public, or one that the operator allows."""
    changed_at: float = field(default=0.0, compare=False)
    """Grows when the connection is changed by a user: what its breaker knew of it holds no more."""
    revision: int = 0
    """Grows when the connection leads to another LM host: the answers of the one before are not its own."""

    def url(self, api: Api) -> str:
        return f"{api_of(self.base_url)}/{api.path}"

    def body(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The body that goes upstream: never with a model or address of the caller's."""
        kept = {name: value for name, value in asked.items() if name not in _NEVER_FORWARDED}
        return {**kept, **self.extra_body, "model": self.model}


def headers_with(key: str | None, *, background: bool = False) -> dict[str, str]:
    """Those of a request to an LM host. RFC 9218 has a priority for what nobody waits for; hosts that know none pass it over."""
    headers = {"content-type": "application/json", "user-agent": "stillhouse", **({"priority": "u=7"} if background else {})}
    return {**headers, "authorization": f"Bearer {key}"} if key else headers


_NEVER_FORWARDED = frozenset({"model", "base_url", "api_base", "api_key", "extra_headers", "extra_body", "extra_query", "timeout"})


@dataclass(frozen=True)
class RelayLimits:
    """Seconds, bytes and calls. `total_seconds` is the budget of one call with its retries; waiting for a free place does not count.

    `idle_seconds` may pass between two pieces of an answer that has begun, `stream_seconds` until the end of one that streams. A breaker
    opens after `breaker_seconds` without a success, and where it could be the requests' own fault after `breaker_requests` of them; it
    stays open for as long as the host asks, at most `longest_rest_seconds`, else for `rest_seconds`.

    All runners together hold at most `connections` to the relay, and the bodies of one runner's requests have at most `runner_body_bytes`
    until they are answered. A body has to come within `body_seconds`.
    """

    attempt_seconds: float = 180.0
    connect_seconds: float = 10.0
    idle_seconds: float = 30.0
    total_seconds: float = 300.0
    stream_seconds: float = 1800.0
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 20.0
    breaker_seconds: float = 10.0
    breaker_requests: int = 3
    rest_seconds: float = 10.0
    longest_rest_seconds: float = 3600.0
    max_body_bytes: int = 16 * 1024 * 1024
    max_reply_bytes: int = 32 * 1024 * 1024
    rollout_calls: int = 500
    connections: int = 512
    body_seconds: float = 60.0
    runner_body_bytes: int = 128 * 1024 * 1024

    @property
    def runner_connections(self) -> int:
        """How many one runner may hold."""
        return min(max(self.connections // 2, 8), 1024)

    @classmethod
    def of(cls, timers: TimerSettings, limits: LimitSettings, connections: int) -> RelayLimits:
        return cls(
            connections=connections,
            rollout_calls=limits.rollout_calls,
            attempt_seconds=timers.call_attempt_seconds,
            idle_seconds=timers.call_idle_seconds,
            total_seconds=timers.call_total_seconds,
            stream_seconds=timers.call_stream_seconds,
            first_pause_seconds=timers.call_pause_seconds,
            longest_pause_seconds=timers.call_pause_cap_seconds,
            breaker_seconds=timers.breaker_seconds,
            rest_seconds=timers.connection_pause_seconds,
            longest_rest_seconds=timers.connection_retry_after_cap_seconds,
        )


class Chunks(Protocol):
    """The bytes of a streaming answer as they come."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Give back what the stream holds, also in the middle of it."""


@dataclass
class RelayReply:
    """An answer: `body`, or for a streaming call `stream`, whose chunks are to be read to the end or closed.

    `code` is None for a success, else why there is none: rate_limited, unavailable, timeout, connection_unauthorized, quota_exhausted,
    address_not_allowed, model_not_found, bad_request, too_large, connection_waiting (its breaker is open: it was not called); and from the
    relay's own door unauthorized, unknown_slot, budget_exhausted, too_many_calls.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: Chunks | None = None
    code: str | None = None
    attempts: int = 1

    @cached_property
    def answer(self) -> Mapping[str, Any]:
        """What the body of a success says, read once; empty where it is no JSON object."""
        if self.code is not None:
            return {}
        try:
            answer = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return answer if isinstance(answer, dict) else {}


def error_reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> RelayReply:
    """An error in OpenAI's shape."""
    body = orjson.dumps({"error": {"message": message, "type": "relay_error", "code": code, "param": None}})
    return RelayReply(status, {"content-type": "application/json", **(headers or {})}, body, code=code)
