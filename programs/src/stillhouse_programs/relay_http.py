"""HTTP/1.1 with keep-alive to the relay, for tasks and for threads. The relay says how many connections there may be.

Written by hand because a general client costs ten times the CPU of the call it carries; it only ever talks to our own relay, which always
answers with a Content-Length.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
import weakref
from contextlib import suppress
from typing import NamedTuple, cast

import orjson

from stillhouse_programs.door import Door, TooManyConnections

PATH = "/v1/chat/completions"
WAITING_PATH = "/v1/waiting"
ERROR_HEADER = "stillhouse-error"
ROLLOUT_HEADER = "stillhouse-rollout"
CALL_HEADER = "stillhouse-call"
_MAX_HEAD_BYTES = 64 * 1024
_MOMENT_SECONDS = 0.25
_HOPELESS_SECONDS = 30.0
"""How long a call waits for a connection when no other call holds one: the program itself holds them all then."""


class RelayUnreachable(Exception):
    """The socket is gone or closed in the middle of an answer."""


class Caller(NamedTuple):
    """Who asks: the work item's token, this run of a rollout, and the call's name, which is the same whenever the rollout is run again;
    empty where the rollout has no seed, so that nobody can say which of its calls are the same."""

    token: str
    rollout: str
    call: str = ""


class Reply(NamedTuple):
    """`code` is the relay's word for what went wrong, or None."""

    status: int
    code: str | None
    body: bytes


def _request_bytes(caller: Caller, body: bytes, start: str = f"POST {PATH}") -> bytes:
    head = (
        f"{start} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {caller.token}\r\n{ROLLOUT_HEADER}: {caller.rollout}\r\n"
        f"{CALL_HEADER}: {caller.call}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.closed = False
        self.is_new = True
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Reply] | None = None
        self._head: tuple[int, str | None, int, bool] | None = None
        self._body_at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(RelayUnreachable("the relay closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._advance()
        except ValueError as fault:
            self.close()
            self._fail(RelayUnreachable(f"the relay sent no HTTP: {fault}"))

    @property
    def answer_started(self) -> bool:
        return bool(self._buffer) or self._head is not None

    async def send(self, data: bytes) -> Reply:
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.close()  # the answer may still come: this connection is of no further use
            raise

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def _advance(self) -> None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise ValueError("head too long")
                return
            self._head, self._body_at = _parse_head(bytes(self._buffer[:end])), end + 4
        status, code, length, keep = self._head
        if len(self._buffer) < self._body_at + length:
            return
        body = bytes(self._buffer[self._body_at : self._body_at + length])
        self._buffer.clear()
        self._head = None
        if not keep:
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Reply(status, code, body))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _parse_head(head: bytes) -> tuple[int, str | None, int, bool]:
    """(status, relay's error code, Content-Length, keep-alive). Raises ValueError."""
    first, _, rest = head.decode("latin-1").partition("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest.split("\r\n"))}
    status = int(first.split(" ", 2)[1])
    keep = headers.get("connection", "").lower() != "close"
    return status, headers.get(ERROR_HEADER), int(headers.get("content-length", 0)), keep


class _Kept:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self._unused: list[_Connection] = []
        self._freed = asyncio.Event()
        self.turn = asyncio.Lock()
        self.used = 0

    def take(self) -> _Connection | None:
        """An open one that no call uses."""
        while self._unused:
            connection = self._unused.pop()
            if not connection.closed:
                return connection
        return None

    async def exchange(self, connection: _Connection, data: bytes) -> Reply:
        self.used += 1
        try:
            reply = await connection.send(data)
        finally:
            self.used -= 1
            self._freed.set()
        if not connection.closed:
            connection.is_new = False
            self._unused.append(connection)
        return reply

    async def wait_for_one(self) -> None:
        """Until a call has ended, or a moment has passed."""
        self._freed.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._freed.wait(), _MOMENT_SECONDS)

    def close_unused(self) -> None:
        while self._unused:
            self._unused.pop().close()


class AsyncRelayClient:
    """For tasks: as many connections as there are calls in flight, kept for the next ones of the same event loop. A call for which there is
    none waits.

    A program may run loops of its own, with `asyncio.run` in a thread.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._kept: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = weakref.WeakKeyDictionary()
        door.when_full(self._close_unused)

    async def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable. A kept connection that turns out to be closed costs a new connection, not an error."""
        return await self._send(_request_bytes(caller, body), caller.rollout)

    async def waited(self, token: str, rollout: str) -> float:
        """Seconds that a rollout's calls have waited for a connection and a place; without the latter when the relay does not say."""
        try:
            reply = await self._send(_request_bytes(Caller(token, rollout), b"", f"GET {WAITING_PATH}"), "")
            at_relay = float(orjson.loads(reply.body)["seconds"]) if reply.status == 200 else 0.0
        except (RelayUnreachable, ValueError, KeyError, TypeError):
            at_relay = 0.0
        return at_relay + self._door.waits.seconds(rollout)

    async def _send(self, data: bytes, rollout: str) -> Reply:
        kept = self._kept.setdefault(asyncio.get_running_loop(), _Kept())
        while True:
            connection = kept.take() or await self._connect(kept, rollout)
            try:
                return await kept.exchange(connection, data)
            except RelayUnreachable:
                if connection.is_new or connection.answer_started:
                    raise

    async def _connect(self, kept: _Kept, rollout: str) -> _Connection:
        loop = asyncio.get_running_loop()
        with self._door.waits.counting(rollout):
            async with kept.turn:
                hopeless_at = loop.time() + _HOPELESS_SECONDS
                while True:
                    try:
                        _, connection = await loop.create_unix_connection(_Connection, sock=self._door.connect())
                    except TooManyConnections as fault:
                        if not kept.used and loop.time() > hopeless_at:
                            raise RelayUnreachable(str(fault)) from fault
                        await kept.wait_for_one()
                        if (freed := kept.take()) is not None:
                            return freed
                    except OSError as fault:
                        raise RelayUnreachable(f"no relay: {fault.strerror or fault}") from fault
                    else:
                        return connection

    def _close_unused(self) -> None:
        for loop, kept in list(self._kept.items()):
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(kept.close_unused)

    def close(self) -> None:
        """Close what this loop keeps."""
        kept = self._kept.pop(asyncio.get_running_loop(), None)
        if kept is not None:
            kept.close_unused()


class _UnixHTTPConnection(http.client.HTTPConnection):
    auto_open = 0

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("relay")
        self.sock = connected
        self.is_new = True


class SyncRelayClient:
    """For threads, which share the connections. A call for which there is none waits."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._unused: list[_UnixHTTPConnection] = []
        self._used = 0
        self._freed = threading.Condition()
        self._turn = threading.Lock()
        door.when_full(self._close_unused)

    def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable. A kept connection that turns out to be closed costs a new connection, not an error."""
        names = {ROLLOUT_HEADER: caller.rollout, CALL_HEADER: caller.call}
        headers = {"authorization": f"Bearer {caller.token}", "content-type": "application/json", **names}
        while True:
            connection = self._take() or self._connect(caller.rollout)
            try:
                return self._exchange(connection, body, headers)
            except (OSError, http.client.HTTPException) as fault:
                if connection.is_new or not isinstance(fault, http.client.RemoteDisconnected | BrokenPipeError):
                    raise RelayUnreachable(f"no answer from the relay: {type(fault).__name__}") from fault

    def _exchange(self, connection: _UnixHTTPConnection, body: bytes, headers: dict[str, str]) -> Reply:
        with self._freed:
            self._used += 1
        is_kept = False
        try:
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.getheader(ERROR_HEADER), answer.read())
            connection.is_new = False
            is_kept = connection.sock is not None
        finally:
            with self._freed:
                self._used -= 1
                if is_kept:
                    self._unused.append(connection)
                else:
                    connection.close()
                self._freed.notify()
        return reply

    def _take(self) -> _UnixHTTPConnection | None:
        with self._freed:
            return self._unused.pop() if self._unused else None

    def _connect(self, rollout: str) -> _UnixHTTPConnection:
        with self._door.waits.counting(rollout), self._turn:
            hopeless_at = time.monotonic() + _HOPELESS_SECONDS
            while True:
                try:
                    return _UnixHTTPConnection(self._door.connect())
                except TooManyConnections as fault:
                    with self._freed:
                        if not self._unused:
                            self._freed.wait(_MOMENT_SECONDS)
                        if self._unused:
                            return self._unused.pop()
                        if not self._used and time.monotonic() > hopeless_at:
                            raise RelayUnreachable(str(fault)) from fault
                except OSError as fault:
                    raise RelayUnreachable(f"no relay: {fault.strerror or fault}") from fault

    def _close_unused(self) -> None:
        with self._freed:
            while self._unused:
                self._unused.pop().close()
