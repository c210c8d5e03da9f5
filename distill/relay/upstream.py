"""One call to an LM host with its retries. Nothing is retried once a byte has been passed on."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from distill.egress import PublicResolver, check_url, why_not_reached
from distill.errors import Invalid, StillhouseError
from distill.redaction import REDACTED
from distill.relay.breaker import Gate, Trouble
from distill.relay.calls import CallLog
from distill.relay.limiter import Waiting
from distill.relay.sessions import open_session
from distill.relay.spans import of_call, record, traced
from distill.relay.targets import CHAT, ERROR_HEADER, Api, RelayLimits, RelayReply, Target, error_reply, headers_with
from distill.tracing import Parent

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLOADED = frozenset({429, 503, 529})
_CODES = {401: "connection_unauthorized", 403: "connection_unauthorized", 404: "model_not_found", 413: "too_large"}
_SHORTEST_PAUSE_SECONDS = 0.05
_PASSED_HEADERS = ("content-type", "retry-after", "x-request-id")
_KEY_THREADS = 4
_SHORTEST_HIDDEN = 16
"""Characters of a key that is looked for in answers: a shorter one may be a word like any other."""
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class _TryAgain(Exception):
    """Carries the reply to give when there is no time left to try again. `certain`: another request would have met the same."""

    def __init__(self, reply: RelayReply, pause: float | None = None, *, certain: bool = False) -> None:
        super().__init__(reply.code)
        self.reply = reply
        self.pause = pause
        self.certain = certain


class Upstream:
    """Calls LM hosts from one event loop, and notes each request in `calls`. `gate` gives what all loops share of a target's connection.

    `allowed_hosts` are those of the operator's own network that a user's connection may lead to.
    """

    def __init__(self, limits: RelayLimits, gate: Callable[[Target], Gate], allowed_hosts: Collection[str], calls: CallLog) -> None:
        self._limits = limits
        self._calls = calls
        self._gate = gate
        self._allowed_hosts = allowed_hosts
        self._session = open_session(limits.connect_seconds)
        self._public_session = open_session(limits.connect_seconds, PublicResolver(allowed_hosts))
        self._keys = ThreadPoolExecutor(_KEY_THREADS, "relay-keys")

    async def close(self) -> None:
        await self._session.close()
        await self._public_session.close()
        self._keys.shutdown(wait=False)

    async def send(
        self,
        target: Target,
        body: Mapping[str, Any],
        *,
        stream: bool = False,
        api: Api = CHAT,
        waiting: Waiting | None = None,
        is_held: Callable[[], bool] = lambda: True,
        background: bool = False,
        trace: Parent | None = None,
    ) -> RelayReply:
        """The LM host's answer, or an error reply. Never raises for what an LM host does. `waiting` runs while the call has no place.

        `is_held` is asked before each request: none is made for work that may be another's. `background`: nobody waits for this one call.
        Its span is below `trace`, or below the current span.
        """
        wire = target.body(body)
        wire.pop("stream", None)
        data = orjson.dumps({**wire, "stream": True} if stream else wire)
        call = _Call(target, api, data, stream, self._limits, waiting or Waiting(), is_held, background)
        with of_call(target, api, trace) as span:
            try:
                reply = await self._attempt(call)
            except _TryAgain as first:
                reply = await self._again(call, first)
            reply.attempts = max(1, call.attempts)
            record(span, reply)
        return reply

    async def _again(self, call: _Call, first: _TryAgain) -> RelayReply:
        """Retries, after a first attempt that failed: tenacity's machinery costs too much for the many calls that need none."""
        failed = [first]

        async def attempt() -> RelayReply:
            if failed:
                raise failed.pop()
            return await self._attempt(call)

        breaker = self._gate(call.target).breaker

        def is_over(state: RetryCallState) -> bool:
            """A connection that is tried is asked once: what its call waits for, all others wait for."""
            return not breaker.is_closed or call.out_of_time(state)

        retrying = AsyncRetrying(retry=retry_if_exception_type(_TryAgain), stop=is_over, wait=call.pause, reraise=True)
        try:
            return await retrying(attempt)
        except _TryAgain as last:
            return last.reply

    async def _attempt(self, call: _Call) -> RelayReply:
        gate = self._gate(call.target)
        async with AsyncExitStack() as stack:
            with call.waiting.counting():
                await stack.enter_async_context(gate.places.place())
                if pause := gate.breaker.pause_seconds():
                    await asyncio.sleep(pause)
            if not call.is_held():
                return error_reply(401, "unauthorized", "the lease of the work that asks is over")
            key = await self._key(call.target)
            if isinstance(key, RelayReply):
                return key
            ticket = gate.breaker.admit()
            if ticket is None:
                return _not_called(call.target, gate)
            call.begin_attempt()
            try:
                reply = await self._counted(call, key, stack)
            except _TryAgain as fault:
                gate.failed(ticket, Trouble(fault.reply.code or "", call.digest, fault.pause, fault.certain))
                raise
            if reply.code == "quota_exhausted":
                gate.failed(ticket, Trouble(reply.code, call.digest, certain=True))
            else:
                gate.succeeded(ticket)
            return reply

    async def _counted(self, call: _Call, key: str | None, stack: AsyncExitStack) -> RelayReply:
        began, outcome = time.monotonic(), "cut_off"
        try:
            reply = await self._ask(call, key, stack)
            outcome = reply.code or "ok"
            return reply
        except _TryAgain as fault:
            outcome = fault.reply.code or "unavailable"
            raise
        finally:
            self._calls.attempted(call.target.connection, outcome, time.monotonic() - began)

    async def _key(self, target: Target) -> str | RelayReply | None:
        """The key of this moment, or the reply to give where there is none to be had, or the address may not be asked."""
        try:
            if target.public_only:
                check_url(target.base_url, self._allowed_hosts, "base_url")
            if target.read_key is None:
                return target.api_key
            return await asyncio.get_running_loop().run_in_executor(self._keys, target.read_key)
        except Invalid:
            return _not_allowed(target)
        except StillhouseError as error:
            return error_reply(401, "connection_unauthorized", f"connection {target.connection} has no key now: {error.message}")

    async def _ask(self, call: _Call, key: str | None, stack: AsyncExitStack) -> RelayReply:
        """One request and its answer. Raises _TryAgain."""
        name = call.target.connection
        session = self._public_session if call.target.public_only else self._session
        try:
            async with asyncio.timeout(call.attempt_seconds()):
                headers = headers_with(key, background=call.background) | traced(call.target)
                post = session.post(call.target.url(call.api), data=call.data, headers=headers, allow_redirects=False)
                response = await stack.enter_async_context(post)
                if call.stream and response.status == 200:
                    return RelayReply(200, _headers(response), stream=ReplyStream(response, stack.pop_all(), self._limits))
                content = await _read(response, self._limits)
        except TimeoutError as fault:
            reply = error_reply(504, "timeout", f"connection {name} did not answer in time")
            raise _TryAgain(reply, certain=isinstance(fault, aiohttp.ConnectionTimeoutError)) from None
        except aiohttp.ClientError as fault:
            if why_not_reached(fault) == "address_not_allowed":
                return _not_allowed(call.target)
            reply = error_reply(503, "unavailable", f"connection {name} cannot be reached: {type(fault).__name__}")
            raise _TryAgain(reply, certain=isinstance(fault, aiohttp.ClientConnectorError)) from fault
        if content is None:
            return error_reply(502, "too_large", "the LM host's answer is too large")
        return _judge(call, response, _without(key, content))


def _not_allowed(target: Target) -> RelayReply:
    return error_reply(403, "address_not_allowed", f"connection {target.connection} leads to an address that is not public")


def _without(key: str | None, content: bytes) -> bytes:
    """An answer that says the key it was asked with, as some refusals do, says it to nobody else: it would be in errors and traces."""
    return content.replace(key.encode(), REDACTED.encode()) if key and len(key) >= _SHORTEST_HIDDEN else content


class ReplyStream:
    """The bytes of a streaming answer as they come. The place in flight is held until the last one, or until `aclose`.

    Raises TimeoutError when the next bytes or the whole take too long, aiohttp.ClientError when the LM host hangs up.
    """

    def __init__(self, response: aiohttp.ClientResponse, resources: AsyncExitStack, limits: RelayLimits) -> None:
        self._response = response
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = limits.idle_seconds
        self._first_by = self._loop.time() + limits.attempt_seconds
        self._last_by = self._loop.time() + limits.stream_seconds
        self._open = True

    def __del__(self) -> None:
        """A reader that is cancelled between two chunks may never close: web frameworks drop what they no longer send."""
        if self._open:
            resources, loop = self._resources, self._loop
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: _close_soon(loop, resources))

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> bytes:
        next_by = max(self._first_by, self._loop.time() + self._idle_seconds)
        try:
            async with asyncio.timeout_at(min(next_by, self._last_by)):
                chunk = await self._response.content.readany()
        except BaseException:
            await self.aclose()
            raise
        if not chunk:
            await self.aclose()
            raise StopAsyncIteration
        self._first_by = 0.0
        return chunk

    async def aclose(self) -> None:
        """Give the place back; may be called twice."""
        self._open = False
        await self._resources.aclose()


_closing: set[asyncio.Task[None]] = set()


def _close_soon(loop: asyncio.AbstractEventLoop, resources: AsyncExitStack) -> None:
    task = loop.create_task(resources.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


class _Call:
    """The state of one call: its clock starts when it first gets a place, since waiting for others is no fault of the LM host."""

    def __init__(
        self,
        target: Target,
        api: Api,
        data: bytes,
        stream: bool,
        limits: RelayLimits,
        waiting: Waiting,
        is_held: Callable[[], bool],
        background: bool,
    ) -> None:
        self.target = target
        self.api = api
        self.is_held = is_held
        self.background = background
        self.data = data
        self.stream = stream
        self.waiting = waiting
        self.attempts = 0
        self._digest = b""
        self._limits = limits
        self._deadline = float("inf")

    @property
    def digest(self) -> bytes:
        """Tells requests apart. Only those that fail are asked for it."""
        self._digest = self._digest or hashlib.sha256(self.data).digest()
        return self._digest

    def begin_attempt(self) -> None:
        self.attempts += 1
        if self._deadline == float("inf"):
            self._deadline = time.monotonic() + self._limits.total_seconds

    def attempt_seconds(self) -> float:
        return max(0.05, min(self._limits.attempt_seconds, self._deadline - time.monotonic()))

    def out_of_time(self, state: RetryCallState) -> bool:
        return time.monotonic() + state.upcoming_sleep >= self._deadline

    def pause(self, state: RetryCallState) -> float:
        """What the LM host asks for and a little more, else doubling pauses; with jitter, so that callers do not come back together."""
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, _TryAgain) and fault.pause is not None:
            return max(fault.pause, _SHORTEST_PAUSE_SECONDS) + jitter * self._limits.first_pause_seconds
        longest: float = min(self._limits.longest_pause_seconds, self._limits.first_pause_seconds * 2.0 ** (state.attempt_number - 1))
        return longest * jitter


def _not_called(target: Target, gate: Gate) -> RelayReply:
    """No secret and nothing of the host's own words: what is known is that it is better left alone."""
    seconds = max(1, math.ceil(gate.breaker.retry_seconds()))
    return error_reply(503, "connection_waiting", f"connection {target.connection} is waiting", {"retry-after": str(seconds)})


def _judge(call: _Call, response: aiohttp.ClientResponse, content: bytes) -> RelayReply:
    """An answer as it is; an error passed on in its own words, with our code. Raises _TryAgain, also for what only looks like an answer: a
    proxy's page, half a document."""
    headers = _headers(response)
    if 200 <= response.status < 300:
        if not _has_answers(content, call.api):
            said = f"connection {call.target.connection} answered, but not as OpenAI's /{call.api.path} does"
            raise _TryAgain(error_reply(502, "unavailable", said))
        return RelayReply(response.status, headers, content)
    error = _error_of(content)
    if error is None:
        reply = error_reply(response.status, "", f"the LM host answered {response.status}", headers)
    else:
        reply = RelayReply(response.status, headers, content)
    reply.code = _code(response.status, error)
    reply.headers[ERROR_HEADER] = reply.code
    if reply.code in ("rate_limited", "unavailable"):
        raise _TryAgain(reply, _retry_after(response), certain=response.status in _OVERLOADED)
    return reply


def _code(status: int, error: Mapping[str, Any] | None) -> str:
    if status == 402 or (error or {}).get("code") in _QUOTA_CODES:
        return "quota_exhausted"
    if status in _RETRIED:
        return "rate_limited" if status == 429 else "unavailable"
    return _CODES.get(status, "bad_request")


def _has_answers(content: bytes, api: Api) -> bool:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(body, dict) and isinstance(body.get(api.answers), list)


def _error_of(content: bytes) -> Mapping[str, Any] | None:
    """The `error` object of an OpenAI-shaped body."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds from now; the header holds seconds or a date. None for neither."""
    text = response.headers.get("retry-after", "")
    try:
        seconds = float(text)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}


async def _read(response: aiohttp.ClientResponse, limits: RelayLimits) -> bytes | None:
    """The whole body, or None when it is too long. Raises TimeoutError when it stops coming."""
    content = bytearray()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limits.idle_seconds) as silence:
        async for chunk in response.content.iter_any():
            silence.reschedule(loop.time() + limits.idle_seconds)
            content += chunk
            if len(content) > limits.max_reply_bytes:
                response.close()
                return None
    return bytes(content)
