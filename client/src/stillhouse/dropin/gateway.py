"""LM calls of a program that runs here: over the server's gateway, with the server's key. The keys of the user's own LMs are never read."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx

from stillhouse._client import Stillhouse
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
        """Raises RelayUnreachable. A host that takes no more calls now is asked again, as its `Retry-After` says."""
        for attempt in range(TRIES):
            try:
                response = self._http.post(self._url, content=body, headers=self._headers)
            except httpx.TransportError as fault:
                raise RelayUnreachable(f"no answer from the server: {type(fault).__name__}") from fault
            if (pause := _pause(response, attempt)) is None:
                break
            self._pausing.wait(pause)
        return _reply(response)

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
            try:
                response = await self._http.post(self._url, content=body, headers=self._headers)
            except httpx.TransportError as fault:
                raise RelayUnreachable(f"no answer from the server: {type(fault).__name__}") from fault
            if (pause := _pause(response, attempt)) is None:
                break
            await asyncio.sleep(pause)
        return _reply(response)

    async def close(self) -> None:
        await self._http.aclose()


def _target(client: Stillhouse) -> tuple[str, dict[str, str]]:
    return client.base_url + PATH, {"Authorization": f"Bearer {client.api_key}", "Content-Type": "application/json"}


def _pause(response: httpx.Response, attempt: int) -> float | None:
    """Seconds until the next try; None when there is none."""
    if response.status_code not in (429, 503) or attempt == TRIES - 1:
        return None
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:
        asked = 2.0**attempt
    return max(0.1, min(asked, LONGEST_PAUSE_SECONDS))


def _reply(response: httpx.Response) -> Reply:
    if response.is_success:
        return Reply(response.status_code, None, response.content)
    return Reply(response.status_code, _REFUSED.get(response.status_code) or _code(response), response.content)


def _code(response: httpx.Response) -> str:
    try:
        error: Any = json.loads(response.content)["error"]
        return str(error["code"])
    except (ValueError, KeyError, TypeError):
        return "upstream_error"
