"""Where a client stands in a job's event stream, across broken connections."""

from __future__ import annotations

import json

import httpx

from stillhouse._exceptions import APIConnectionError
from stillhouse._request import Call
from stillhouse._sse import Decoder
from stillhouse.types import Event

_MAX_FAILURES = 5
#: The server sends a comment every 15 s; silence for longer than this is a broken connection.
_SILENCE_SECONDS = 60.0


class EventCursor:
    """Remembers the last event number, so that the next connection goes on after it. Fed with the lines of each response."""

    broken = APIConnectionError

    def __init__(self, path: str, after: int | None) -> None:
        self.done = False
        self._path = path
        self._last = after
        self._failures = 0
        self._decoder = Decoder()

    def call(self) -> Call[None]:
        headers = {"Accept": "text/event-stream"}
        if self._last is not None:
            headers["Last-Event-ID"] = str(self._last)
        return Call("GET", self._path, lambda _: None, headers=headers, timeout=_SILENCE_SECONDS)

    def opened(self, response: httpx.Response) -> None:
        """204 means: nothing follows what was already seen."""
        self.done = response.status_code == httpx.codes.NO_CONTENT
        self._decoder = Decoder()

    def feed(self, line: str) -> Event | None:
        message = self._decoder.feed(line.rstrip("\r\n"))
        if message is None:
            return None
        event = Event.model_validate(json.loads(message.data))
        self._last, self._failures = event.id, 0
        self.done = message.event == "done"
        return event

    def failed(self, error: APIConnectionError) -> None:
        """Count a break; raise it when connections keep breaking without an event between."""
        self._failures += 1
        if self._failures > _MAX_FAILURES:
            raise error
