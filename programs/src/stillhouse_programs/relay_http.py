"""HTTP/1.1 with keep-alive to the relay, for tasks and for threads. No cap on connections.

Written by hand because a general client costs ten times the CPU of the call it carries; it only ever talks to our own relay, which always
answers with a Content-Length.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
import weakref
from typing import NamedTuple, cast

import orjson

from stillhouse_programs.door import Door

PATH = "/v1/chat/completions"
WAITING_PATH = "/v1/waiting"
ERROR_HEADER = "stillhouse-error"
ROLLOUT_HEADER = "stillhouse-rollout"
CALL_HEADER = "stillhouse-call"
_MAX_HEAD_BYTES = 64 * 1024


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


class AsyncRelayClient:
    """For tasks: as many connections as there are calls in flight, kept for the next ones of the same event loop.

    A program may run loops of its own, with `asyncio.run` in a thread.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._idle: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Connection]] = weakref.WeakKeyDictionary()

    async def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable. A kept connection that turns out to be closed costs a new connection, not an error."""
        return await self._send(_request_bytes(caller, body))

    async def waited(self, token: str, rollout: str) -> float:
        """Seconds that a rollout's calls have waited for a place; 0 when the relay does not say."""
        try:
            reply = await self._send(_request_bytes(Caller(token, rollout), b"", f"GET {WAITING_PATH}"))
            return float(orjson.loads(reply.body)["seconds"]) if reply.status == 200 else 0.0
        except (RelayUnreachable, ValueError, KeyError, TypeError):
            return 0.0

    async def _send(self, data: bytes) -> Reply:
        idle = self._idle.setdefault(asyncio.get_running_loop(), [])
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            try:
                return await _exchange(idle, connection, data)
            except RelayUnreachable:
                if connection.answer_started:
                    raise
        return await _exchange(idle, await self._connect(), data)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(_Connection, sock=self._door.connect())
        except OSError as fault:
            raise RelayUnreachable(f"no relay: {fault.strerror or fault}") from fault
        return connection

    def close(self) -> None:
        """Close what this loop keeps."""
        for connection in self._idle.pop(asyncio.get_running_loop(), []):
            connection.close()


async def _exchange(idle: list[_Connection], connection: _Connection, data: bytes) -> Reply:
    reply = await connection.send(data)
    if not connection.closed:
        idle.append(connection)
    return reply


class _UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, door: Door) -> None:
        super().__init__("relay")
        self._door = door

    def connect(self) -> None:
        self.sock = self._door.connect()


class SyncRelayClient:
    """For threads: one connection a thread."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._local = threading.local()

    def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable."""
        names = {ROLLOUT_HEADER: caller.rollout, CALL_HEADER: caller.call}
        headers = {"authorization": f"Bearer {caller.token}", "content-type": "application/json", **names}
        for fresh in (False, True):
            connection = self._connection(fresh)
            try:
                connection.request("POST", PATH, body, headers)
                answer = connection.getresponse()
                return Reply(answer.status, answer.getheader(ERROR_HEADER), answer.read())
            except (OSError, http.client.HTTPException) as fault:
                connection.close()
                if fresh or not isinstance(fault, http.client.RemoteDisconnected | BrokenPipeError):
                    raise RelayUnreachable(f"no answer from the relay: {type(fault).__name__}") from fault
        raise AssertionError("unreachable")

    def _connection(self, fresh: bool) -> _UnixHTTPConnection:
        connection: _UnixHTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None or fresh:
            connection = self._local.connection = _UnixHTTPConnection(self._door)
        return connection
