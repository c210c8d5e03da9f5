"""Trying a connection: one tiny call, and what came of it in plain words.

Nothing that the host writes is passed on, nor an address or a key: who tries it is told what to look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from distill.egress import PublicResolver, check_url, why_not_reached
from distill.errors import Invalid, StillhouseError
from distill.relay.sessions import open_session
from distill.relay.targets import COMPLETIONS, EMBEDDINGS, Api, Target, api_of, headers_with

SECONDS = 20.0
_CONNECT_SECONDS = 10.0
_MOST_BYTES = 8 * 1024 * 1024
_WORDS: Mapping[str, str] = {
    "address_not_allowed": "its address is not a public one; the operator allows hosts of the own network",
    "key_unreadable": "its key cannot be read on this server; give it again",
    "name_not_found": "its host has no address: look at the name in base_url",
    "refused": "nothing takes connections at its address and port",
    "tls": "no TLS connection with it comes about; its certificate may not be valid",
    "broken": "the connection broke before the answer was whole",
    "timeout": f"it did not answer within {SECONDS:g} s",
    "redirect": "it answers with a redirect, which is never followed; give the address that it leads to",
    "unauthorized": "it refuses the key",
    "key_missing": "it wants a key, and the connection has none",
    "quota_exhausted": "it takes the key, whose quota is used up",
    "rate_limited": "it takes no more requests now",
    "unavailable": "it has a failure of its own now",
    "not_openai_shaped": "it answers, but not as OpenAI's API does; base_url is what comes before /chat/completions",
    "too_large": "its answer is too large",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is `ok`, or what failed."""

    code: str
    message: str


class _Failed(Exception):
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.finding = Finding(code, message or _WORDS[code])


async def try_out(target: Target, allowed_hosts: Collection[str]) -> Finding:
    """Ask the target's model for one token, or for an embedding where it has no answers; without a model, the host for its models."""
    try:
        async with _asking(target, allowed_hosts) as asked:
            return await (asked.model() if target.model else asked.models())
    except _Failed as failed:
        return failed.finding
    except TimeoutError:
        return _Failed("timeout").finding
    except (aiohttp.ClientError, OSError) as error:
        return _Failed(why_not_reached(error)).finding


async def lists(target: Target, allowed_hosts: Collection[str]) -> bool:
    """Whether the host answers now, and the target's model is among those that it lists."""
    try:
        async with _asking(target, allowed_hosts) as asked:
            return target.model in await asked.listed()
    except (_Failed, aiohttp.ClientError, OSError):  # a timeout is an OSError
        return False


@asynccontextmanager
async def _asking(target: Target, allowed_hosts: Collection[str]) -> AsyncGenerator[_Asked]:
    """Raises _Failed for a key that cannot be had, or an address that is not allowed."""
    key = await _key(target, allowed_hosts)
    resolver = PublicResolver(allowed_hosts) if target.public_only else None
    async with open_session(_CONNECT_SECONDS, resolver) as session, asyncio.timeout(SECONDS):
        yield _Asked(session, target, key)


async def _key(target: Target, allowed_hosts: Collection[str]) -> str | None:
    try:
        if target.public_only:
            check_url(target.base_url, allowed_hosts, "base_url")
        return target.api_key if target.read_key is None else await asyncio.to_thread(target.read_key)
    except Invalid:
        raise _Failed("address_not_allowed") from None
    except StillhouseError:
        raise _Failed("key_unreadable") from None


class _Asked:
    """One host. Its methods raise _Failed."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, key: str | None) -> None:
        self._session, self._target, self._key = session, target, key

    async def model(self) -> Finding:
        """By chat, or by the first of the other routes that answers where the host says that it has no chat of this model."""
        try:
            return await self._chat()
        except _Failed as failed:
            if failed.finding.code not in _MAYBE_NO_CHAT:
                raise
            for api, asked in _OTHERS.items():
                status, answer = await self._ask("POST", api.path, {"model": self._target.model, **asked})
                if status == 200 and isinstance(answer, dict) and isinstance(answer.get(api.answers), list):
                    return Finding("ok", f"{self._target.model} answered, by /{api.path}; it has no chat")
            raise

    async def _chat(self) -> Finding:
        body = {"model": self._target.model, "messages": [{"role": "user", "content": "Say: ok"}]}
        status, answer = await self._ask("POST", "chat/completions", {**body, "max_tokens": 1})
        if status == 400:  # models that reason know the limit by another name, and need room for it
            status, answer = await self._ask("POST", "chat/completions", {**body, "max_completion_tokens": 16})
        if status == 404 and _is_refusal(answer):
            raise _Failed("model_not_found", f"it has no model {self._target.model}, or not for this key")
        self._judge(status)
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise _Failed("not_openai_shaped")
        return Finding("ok", f"{self._target.model} answered")

    async def models(self) -> Finding:
        return Finding("ok", f"it lists {len(await self.listed())} models; name one to have it asked")

    async def listed(self) -> list[Any]:
        """The ids of the host's models."""
        status, answer = await self._ask("GET", "models")
        self._judge(status)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise _Failed("not_openai_shaped")
        return [each.get("id") for each in answer["data"] if isinstance(each, dict)]

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """The status, and what was answered as JSON; None for what is none."""
        data = None if body is None else orjson.dumps(body)
        url = f"{api_of(self._target.base_url)}/{path}"
        async with self._session.request(method, url, data=data, headers=headers_with(self._key), allow_redirects=False) as response:
            return response.status, _parsed(await _read(response))

    def _judge(self, status: int) -> None:
        if status in (401, 403):
            raise _Failed("unauthorized" if self._key else "key_missing")
        if status in _SAID:
            raise _Failed(_SAID[status])
        if 300 <= status < 400:
            raise _Failed("redirect")
        if status >= 500:
            raise _Failed("unavailable")
        if status >= 400:
            raise _Failed("bad_request", f"it answers, but refused the request ({status})")


_OTHERS: Mapping[Api, Mapping[str, Any]] = {EMBEDDINGS: {"input": "ok"}, COMPLETIONS: {"prompt": "Say: ok", "max_tokens": 1}}
# What hosts say of a chat with a model that has embeddings alone: 400 (vLLM), 403 or 404 (OpenAI), 404 or 405 (no such route).
_MAYBE_NO_CHAT = frozenset({"bad_request", "unauthorized", "model_not_found", "not_openai_shaped"})
_SAID: Mapping[int, str] = {402: "quota_exhausted", 404: "not_openai_shaped", 405: "not_openai_shaped", 429: "rate_limited"}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise _Failed("too_large")
    return bytes(content)


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _is_refusal(answer: Any) -> bool:
    return isinstance(answer, dict) and "error" in answer
