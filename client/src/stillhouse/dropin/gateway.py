"""LM calls of a program that runs here: over the server's gateway, with the server's key. The keys of the user's own LMs are never read."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from typing import Any

import httpx

from stillhouse._client import Stillhouse
from stillhouse._exceptions import retry_after
from stillhouse_programs.relay_http import Caller, RelayUnreachable, Reply

PATH = "/v1/chat/completions"
TRIES = 5
LONGEST_PAUSE_SECONDS = 30.0
ANSWER_SECONDS = 600.0
_TIMEOUT = httpx.Timeout(ANSWER_SECONDS, connect=10.0)
_REFUSED = {401: "unauthorized", 403: "unauthorized", 404: "model_not_found"}
"""As the executor of rollouts knows them; after the first, every further call would end the same way."""
AWAY = frozenset({"connection_waiting", "model_loading"})
"""The LM host is away, or has lent its device: the work waits for it, and not each of its calls."""


class SyncGateway:
    """For programs that run in threads."""

    def __init__(self, client: Stillhouse) -> None:
        self._url, self._headers = _target(client)
        self._http = httpx.Client(timeout=_TIMEOUT)
        self._pausing = threading.Event()

    def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable. After a broken connection, or as the `Retry-After` of a busy host says, it asks again."""
        tries = _Tries(self._headers)
        while (pause := tries.pause_after(got := self._try(body, tries.headers))) is not None:
            self._pausing.wait(pause)
        return _reply(got)

    def _try(self, body: bytes, headers: dict[str, str]) -> httpx.Response | httpx.TransportError:
        try:
            return self._http.post(self._url, content=body, headers=headers)
        except httpx.TransportError as fault:
            return fault

    def close(self) -> None:
        self._pausing.set()
        self._http.close()


class AsyncGateway:
    """For programs that run as tasks, on one event loop."""

    def __init__(self, client: Stillhouse) -> None:
        self._url, self._headers = _target(client)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=None))

    async def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises as SyncGateway.post."""
        tries = _Tries(self._headers)
        while (pause := tries.pause_after(got := await self._try(body, tries.headers))) is not None:
            await asyncio.sleep(pause)
        return _reply(got)

    async def _try(self, body: bytes, headers: dict[str, str]) -> httpx.Response | httpx.TransportError:
        try:
            return await self._http.post(self._url, content=body, headers=headers)
        except httpx.TransportError as fault:
            return fault

    async def close(self) -> None:
        await self._http.aclose()


def _target(client: Stillhouse) -> tuple[str, dict[str, str]]:
    return client.base_url + PATH, {"Authorization": f"Bearer {client.api_key}", "Content-Type": "application/json"}


class _Tries:
    """The tries of one call. All have one key: what the server had answered when the connection broke comes again, and is paid once."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = {**headers, "Idempotency-Key": uuid.uuid4().hex}
        self._made = 0
        self._patient_until = time.monotonic() + ANSWER_SECONDS

    def pause_after(self, got: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next try; None when there is none. An answer that took too long would do so again."""
        wish = retry_after(got) if isinstance(got, httpx.Response) else None
        if isinstance(got, httpx.Response) and got.status_code == 409 and wish is not None:
            # An earlier try still waits for the LM: this one asked nothing, and counts as none.
            return _within(wish) if time.monotonic() < self._patient_until else None
        self._made += 1
        if self._made == TRIES or isinstance(got, httpx.ReadTimeout):
            return None
        if isinstance(got, httpx.Response) and (got.status_code not in (429, 503) or _code(got) in AWAY):
            return None
        return _within(2.0 ** (self._made - 1) if wish is None else wish)


def _within(seconds: float) -> float:
    return max(0.1, min(seconds, LONGEST_PAUSE_SECONDS))


def _reply(got: httpx.Response | httpx.TransportError) -> Reply:
    if isinstance(got, httpx.TransportError):
        raise RelayUnreachable(f"no answer from the server: {type(got).__name__}") from got
    if got.is_success:
        return Reply(got.status_code, None, got.content)
    return Reply(got.status_code, _REFUSED.get(got.status_code) or _code(got), got.content)


def _code(response: httpx.Response) -> str:
    try:
        error: Any = json.loads(response.content)["error"]
        return str(error["code"])
    except (ValueError, KeyError, TypeError):
        return "upstream_error"
