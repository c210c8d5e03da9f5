"""LM calls of a program that runs here: over the server's gateway, with the server's key. The keys of the user's own LMs are never read."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx

from stillhouse._client import Stillhouse
from stillhouse._exceptions import retry_after
from stillhouse_programs.relay_http import RelayUnreachable, Reply

PATH = "/v1/chat/completions"
TRIES = 5
LONGEST_PAUSE_SECONDS = 30.0
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_REFUSED = {401: "unauthorized", 403: "unauthorized", 404: "model_not_found"}
"""As the executor of rollouts knows them; after the first, every further call would end the same way."""


class SyncGateway:
    """For programs that run in threads."""

    def __init__(self, client: Stillhouse) -> None:
        self._url, self._headers = _target(client)
        self._http = httpx.Client(timeout=_TIMEOUT)
        self._pausing = threading.Event()

    def post(self, token: str, rollout: str, body: bytes) -> Reply:
        """Raises RelayUnreachable. After a broken connection, or as the `Retry-After` of a busy host says, it asks again."""
        for attempt in range(TRIES):
            got = self._try(body)
            if (pause := _pause(got, attempt)) is None:
                break
            self._pausing.wait(pause)
        return _reply(got)

    def _try(self, body: bytes) -> httpx.Response | httpx.TransportError:
        try:
            return self._http.post(self._url, content=body, headers=self._headers)
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

    async def post(self, token: str, rollout: str, body: bytes) -> Reply:
        """Raises as SyncGateway.post."""
        for attempt in range(TRIES):
            got = await self._try(body)
            if (pause := _pause(got, attempt)) is None:
                break
            await asyncio.sleep(pause)
        return _reply(got)

    async def _try(self, body: bytes) -> httpx.Response | httpx.TransportError:
        try:
            return await self._http.post(self._url, content=body, headers=self._headers)
        except httpx.TransportError as fault:
            return fault

    async def close(self) -> None:
        await self._http.aclose()


def _target(client: Stillhouse) -> tuple[str, dict[str, str]]:
    return client.base_url + PATH, {"Authorization": f"Bearer {client.api_key}", "Content-Type": "application/json"}


def _pause(got: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
    """Seconds until the next try; None when there is none. An answer that took too long would do so again, and be paid again."""
    if attempt == TRIES - 1 or isinstance(got, httpx.ReadTimeout):
        return None
    if isinstance(got, httpx.Response) and got.status_code not in (429, 503):
        return None
    wish = retry_after(got) if isinstance(got, httpx.Response) else None
    return max(0.1, min(2.0**attempt if wish is None else wish, LONGEST_PAUSE_SECONDS))


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
