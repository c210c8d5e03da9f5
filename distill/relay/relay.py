"""One relay a process: an event loop in its own thread, for runners, which get connections to it, and for the gateway (`forward`)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

import orjson
import structlog
from aiohttp import web

from distill.relay.allowance import WITHOUT_END, Allowance, Block, Refill, TooManyCalls
from distill.relay.breaker import Gate, Wait, waits_of
from distill.relay.calls import CallLog
from distill.relay.connections import RunnerConnections, Served, Total
from distill.relay.grants import Grant
from distill.relay.replies import Replies, ReplyKey, is_worth_keeping
from distill.relay.targets import CALL_HEADER, CHAT, ERROR_HEADER, ROLLOUT_HEADER, Api, RelayLimits, RelayReply, Target, error_reply
from distill.relay.upstream import Upstream
from distill.relay.usage import read_usage

log = structlog.get_logger(__name__)

_STOP_SECONDS = 5.0
_LONGEST_NAME = 200
_BUFFER_BYTES = 16 * 1024
"""Of a body that waits to be read, in each connection."""


class Relay:
    """Start it once a process; every method may be called from any thread.

    `allowed_hosts` are those of the operator's own network that a user's connection may lead to. `replies` keeps what was paid for until
    its trace is committed; without it whoever asks again pays again.
    """

    def __init__(self, limits: RelayLimits | None = None, allowed_hosts: Collection[str] = (), replies: Replies | None = None) -> None:
        self._limits = limits or RelayLimits()
        self._replies = replies
        self.calls = CallLog()
        self._allowed_hosts = frozenset(allowed_hosts)
        self._lock = threading.Lock()
        self._grants: dict[str, Grant] = {}
        self._gates: dict[str, Gate] = {}
        self._upstreams: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Upstream] = weakref.WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._http: web.Server | None = None
        self._total = Total(self._limits.connections, self._limits.runner_connections)
        self._runners: dict[asyncio.BaseTransport, RunnerConnections] = {}

    def start(self) -> Self:
        """Returns itself. Starting twice changes nothing."""
        with self._lock:
            if self._thread is None:
                ready = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(ready,), name="relay", daemon=True)
                self._thread.start()
                ready.wait()
            if self._failure is not None:
                raise RuntimeError("the relay did not start") from self._failure
            return self

    def stop(self) -> None:
        """Cut off the calls in flight, and take no more connections."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stop is None:
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(_STOP_SECONDS)

    def connections(self) -> RunnerConnections:
        """For a new runner: what it connects by."""
        return RunnerConnections(self._total, self._serve_connection, self._limits.runner_body_bytes)

    def grant(
        self,
        targets: Mapping[str, Target],
        block: Block = WITHOUT_END,
        refill: Refill | None = None,
        is_held: Callable[[], bool] = lambda: True,
        project_id: str | None = None,
        *,
        background: bool = False,
    ) -> Grant:
        """Let the bearer of the new token call these slots, as far as `block` goes and what `refill` adds, and while `is_held` says so.
        For a project, a call that was made and paid before is answered by the reply that was kept of it. LM hosts may let others go before
        `background` calls.

        What the targets say of their connections' `max_in_flight` holds from now on, also for calls of older grants.
        """
        for target in targets.values():
            self._gate(target).resize(target.max_in_flight)
        grant = Grant(dict(targets), Allowance(block, self._limits.rollout_calls), self._revoke, refill, project_id, is_held, background)
        self._grants[grant.token] = grant
        return grant

    def waits(self, connections: Iterable[str]) -> dict[str, Wait]:
        """Those of these connections that do not take calls, and why; not the ones that are being tried."""
        with self._lock:
            return waits_of([(each, self._gates[each]) for each in connections if each in self._gates])

    def begin(self, targets: Iterable[Target], probing: Collection[str] = ()) -> None:
        """Before work that was given out: its connections may be called again. Those that are tried get one call at a time until one is
        answered; then `is_closed` says so."""
        for target in targets:
            self._gate(target).begin(probing=target.connection in probing)

    def is_closed(self, connection: str) -> bool:
        """Whether a connection is called without reserve."""
        gate = self._gates.get(connection)
        return gate is None or gate.breaker.is_closed

    def forget_replies(self, project_id: str, rollouts: Iterable[str]) -> None:
        """Of rollouts, by the names that runners give them, whose traces are committed."""
        if self._replies is not None and self._loop is not None:
            with suppress(RuntimeError):  # the relay is stopped
                asyncio.run_coroutine_threadsafe(self._replies.forget(project_id, list(rollouts)), self._loop)

    async def forward(self, target: Target, body: Mapping[str, Any], stream: bool = False, api: Api = CHAT) -> RelayReply:
        """One call from the caller's own event loop, with the same limits and retries. A stream's chunks are the LM host's bytes."""
        self._gate(target).resize(target.max_in_flight)
        reply = await self._upstream().send(target, body, stream=stream, api=api)
        if reply.code is None and not stream:
            self.count_tokens(target, reply.answer.get("usage"))
        return reply

    def count_tokens(self, target: Target, said: Any) -> None:
        """The usage of an answer, as its LM host says it."""
        self._note(target, read_usage(said))

    async def close_here(self) -> None:
        """Close the connections that `forward` opened in this event loop."""
        upstream = self._upstreams.pop(asyncio.get_running_loop(), None)
        if upstream is not None:
            await upstream.close()

    def _revoke(self, grant: Grant) -> None:
        self._grants.pop(grant.token, None)
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(grant.cut_off)

    def _upstream(self) -> Upstream:
        loop = asyncio.get_running_loop()
        upstream = self._upstreams.get(loop)
        if upstream is None:
            upstream = self._upstreams[loop] = Upstream(self._limits, self._gate, self._allowed_hosts, self.calls)
        return upstream

    def _gate(self, target: Target) -> Gate:
        gate = self._gates.get(target.connection)
        if gate is None:
            with self._lock:
                gate = self._gates.setdefault(target.connection, Gate(target.max_in_flight, self._limits))
        gate.follow(target.changed_at)
        return gate

    # ------------------------------------------------------------ for runners

    def _run(self, ready: threading.Event) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(ready))
        except BaseException as fault:
            self._failure = fault
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        application = web.Application(client_max_size=self._limits.max_body_bytes)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_get("/v1/waiting", self._waited)
        server = web.AppRunner(
            application,
            auto_decompress=False,  # inflated here, a body would be more than the bytes that its runner was charged
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.5,
            read_bufsize=_BUFFER_BYTES,
        )
        await server.setup()
        self._http = server.server
        ready.set()
        try:
            await self._stop.wait()
        finally:
            self._http = None
            for grant in list(self._grants.values()):
                grant.cut_off()
            await server.cleanup()
            await self.close_here()
            if self._replies is not None:
                await self._replies.close()

    def _serve_connection(self, connection: socket.socket, runner: RunnerConnections) -> None:
        if self._loop is None or self._http is None:
            connection.close()
            raise ConnectionRefusedError("the relay takes no connections")
        accepting = self._accept(connection, runner)
        try:
            asyncio.run_coroutine_threadsafe(accepting, self._loop)
        except RuntimeError:  # its loop was closed meanwhile
            accepting.close()
            connection.close()
            raise ConnectionRefusedError("the relay takes no connections") from None

    async def _accept(self, connection: socket.socket, runner: RunnerConnections) -> None:
        http, loop = self._http, asyncio.get_running_loop()
        if http is None:
            connection.close()
            runner.closed()
        else:
            connection.setblocking(False)
            await loop.connect_accepted_socket(lambda: Served(http(), runner, self._runners), connection)

    def _grant_of(self, request: web.Request) -> Grant | None:
        return self._grants.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    async def _waited(self, request: web.Request) -> web.Response:
        """How long a rollout's calls have waited for a place: time that is not its own, and does not count against its limit."""
        grant = self._grant_of(request)
        if grant is None:
            return _response(error_reply(401, "unauthorized", "unknown or revoked token"))
        return web.json_response({"seconds": grant.waited(_rollout_of(request))})

    async def _chat(self, request: web.Request) -> web.Response:
        grant = self._grant_of(request)
        if grant is None:
            return _response(error_reply(401, "unauthorized", "unknown or revoked token"))
        runner = self._runners.get(request.transport) if request.transport is not None else None
        if runner is None:
            raise ConnectionResetError("the runner has closed the connection")
        size, most = request.content_length, self._limits.max_body_bytes
        if size is not None and size > most:
            return _response(_TOO_LARGE)
        rollout = _rollout_of(request)
        if len(rollout) > _LONGEST_NAME:
            return _response(error_reply(400, "bad_request", f"the name of a rollout has at most {_LONGEST_NAME} characters"))
        with grant.cutting_off():
            async with runner.room_for(most if size is None else size, grant.waiting(rollout)):
                return _response(await self._serve_call(grant, request))

    async def _serve_call(self, grant: Grant, request: web.Request) -> RelayReply:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                raw = await request.read()
            body = orjson.loads(raw)
        except TimeoutError:
            return error_reply(408, "timeout", f"the request's body did not come within {self._limits.body_seconds:g} s")
        except web.HTTPRequestEntityTooLarge:
            return _TOO_LARGE
        except orjson.JSONDecodeError:
            return error_reply(400, "bad_request", "the body is not JSON")
        slot = body.get("model") if isinstance(body, dict) else None
        target = grant.targets.get(slot) if isinstance(slot, str) else None
        if not isinstance(slot, str) or target is None:
            given = ", ".join(grant.targets)
            return error_reply(404, "unknown_slot", f"the program asked for an LM that it was not given (`model` is one of {given})")
        return await self._find_or_ask(grant, slot, body, request)

    async def _find_or_ask(self, grant: Grant, slot: str, body: Mapping[str, Any], request: web.Request) -> RelayReply:
        rollout, call = _rollout_of(request), request.headers.get(CALL_HEADER, "")
        if self._replies is None or grant.project_id is None or not call:
            return await self._ask(grant, slot, body, rollout)
        key = ReplyKey.of(grant.project_id, grant.targets[slot], call, body)
        found = await self._replies.find(key)
        if found is not None:
            reply = RelayReply(200, {"content-type": "application/json"}, found)
            grant.reuse(slot, rollout, read_usage(reply.answer.get("usage")))
            return reply
        reply = await self._ask(grant, slot, body, rollout)
        if is_worth_keeping(reply.answer):
            await asyncio.shield(self._replies.keep(key, reply.body))  # also when whoever asked dies now
        return reply

    async def _ask(self, grant: Grant, slot: str, body: Mapping[str, Any], rollout: str) -> RelayReply:
        try:
            granted = await grant.take(rollout)
        except TooManyCalls:
            most = self._limits.rollout_calls
            return error_reply(403, "too_many_calls", f"one rollout may make {most} LM calls ([limits] rollout_calls)")
        except Exception:
            log.warning("refill_failed", exc_info=True)
            return error_reply(503, "unavailable", "the budget of LM calls cannot be read now")
        if not granted:
            return error_reply(402, "budget_exhausted", "what was granted is used up, and no more is left")
        started = time.monotonic()
        reply: RelayReply | None = None
        try:
            waiting, target = grant.waiting(rollout), grant.targets[slot]
            reply = await self._upstream().send(
                target, body, waiting=waiting, is_held=grant.is_held, background=grant.background, trace=grant.trace
            )
            return reply
        finally:
            usage = read_usage(reply.answer.get("usage")) if reply is not None else {}
            if reply is not None and reply.code is None:
                self._note(grant.targets[slot], usage)
            grant.settle(slot, rollout, reply, usage, time.monotonic() - started)

    def _note(self, target: Target, usage: Mapping[str, Any]) -> None:
        self.calls.answered(target.connection, usage, target.price(usage) if target.price is not None and usage else None)


_TOO_LARGE = error_reply(413, "too_large", "the request is too large")


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _rollout_of(request: web.Request) -> str:
    return request.headers.get(ROLLOUT_HEADER, "")


def _response(reply: RelayReply) -> web.Response:
    headers = dict(reply.headers)
    if reply.code is not None:
        headers[ERROR_HEADER] = reply.code
    return web.Response(status=reply.status, headers=headers, body=reply.body)
