"""A request whose transaction was taken back is run once more, as a whole, before anybody hears of it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from distill.db import CommitUnknown, is_undone

TRIES = 3
KEPT_BYTES = 1_000_000
_READS = frozenset({"GET", "HEAD"})


class Repeats:
    """After a deadlock, a failed serialisation or a lost connection: up to three times in all, with jitter between.

    When nobody knows whether a commit went through, only what can be asked twice is asked twice: a read, or a request with an
    `Idempotency-Key`, which then finds the stored reply. Nothing is repeated once the reply has begun, or with a body over a megabyte,
    which is not kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)

        def may_pass(error: BaseException) -> bool:
            undone = is_undone(error) or (isinstance(error, CommitUnknown) and _can_be_asked_twice(scope))
            return undone and exchange.can_begin_again

        tries = AsyncRetrying(retry=retry_if_exception(may_pass), stop=stop_after_attempt(TRIES), wait=wait_random(0.02, 0.2), reraise=True)
        async for attempt in tries:
            with attempt:
                await self._app(scope, exchange.receive_again(), exchange.send)


class _Exchange:
    """What has come of the body, so that it can be read again, and whether the reply has begun."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._came: list[Message] = []
        self._bytes = 0
        self._has_begun = False

    @property
    def can_begin_again(self) -> bool:
        return not self._has_begun and self._bytes <= KEPT_BYTES

    async def send(self, message: Message) -> None:
        self._has_begun = True
        await self._send(message)

    def receive_again(self) -> Receive:
        again = iter(list(self._came))

        async def receive() -> Message:
            for message in again:
                return message
            message = await self._receive()
            self._keep(message)
            return message

        return receive

    def _keep(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        if self._bytes > KEPT_BYTES:
            self._came.clear()
        elif message["type"] == "http.request":
            self._came.append(message)


def _can_be_asked_twice(scope: Scope) -> bool:
    return scope["method"] in _READS or any(name == b"idempotency-key" for name, _ in scope["headers"])
