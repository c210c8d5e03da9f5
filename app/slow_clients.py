"""uvicorn's HTTP protocol, with an end for clients that hold a connection and do nothing: else some hundreds of them shut everybody out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS = 30.0
"""For the head of a request, from when the connection is open or the last reply is written: more than a pause between two requests."""
UNREAD_SECONDS = 60.0
"""A client may read nothing for so long, while there is more for it than buffers hold."""


class BoundedProtocol(H11Protocol):
    """Cuts off clients that send no whole head of a request in time, not even byte by byte, and those that do not read their reply."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head, self._unread = _Countdown(transport.abort), _Countdown(transport.abort)
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.start(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        self._unread.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.stop()
        self._unread.stop()
        super().connection_lost(exc)

    def _look(self) -> None:
        """The time for a head runs while no request is answered, and no byte that comes meanwhile sets it back."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self._head.start(HEAD_SECONDS)
        else:
            self._head.stop()


class _Countdown:
    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """One that runs goes on as it is."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._then)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
