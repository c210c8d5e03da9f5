"""A runner's way to the relay. It may make no sockets: it asks for a connection with one byte, and gets one handed in."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# The variable with the number of the file descriptor, in a runner's environment.
DOOR_VARIABLE = "STILLHOUSE_RELAY_DOOR"
_NOTICEABLE_SECONDS = 0.01


class TooManyConnections(ConnectionRefusedError):
    """This process holds as many connections as it may."""


class Door:
    """Thread-safe."""

    def __init__(self, descriptor: int | None) -> None:
        self._socket = None if descriptor is None else socket.socket(fileno=descriptor)
        if self._socket is not None:
            self._socket.set_inheritable(False)  # what a program starts has no business there
        self._lock = threading.Lock()
        self._unused: list[Callable[[], None]] = []
        self.waits = Waits()

    @classmethod
    def of_environment(cls) -> Door:
        """The one that this process was given; without one, no relay is reached."""
        number = os.environ.pop(DOOR_VARIABLE, None)
        return cls(None if number is None else int(number))

    def when_full(self, close_unused: Callable[[], None]) -> None:
        """Call `close_unused` whenever no connection is given, since this process holds as many as it may."""
        self._unused.append(close_unused)

    def connect(self) -> socket.socket:
        """A connection to the relay. Raises TooManyConnections, OSError."""
        if self._socket is None:
            raise ConnectionRefusedError("there is no door to a relay")
        with self._lock:
            self._socket.send(b"?")
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            return socket.socket(fileno=descriptors[0])
        if answer != b"=":
            raise ConnectionRefusedError("the relay takes no connections")
        for close_unused in self._unused:
            close_unused()
        raise TooManyConnections("the program holds as many connections to the relay as it may")


@dataclass
class _Wait:
    """A moment in which several calls wait counts once."""

    waiting: int = 0
    since: float = 0.0
    seconds: float = 0.0

    def so_far(self, now: float) -> float:
        return self.seconds + (now - self.since if self.waiting else 0.0)


class Waits:
    """How long the calls of rollouts have waited for a connection: time that is not their own. Thread-safe."""

    def __init__(self) -> None:
        self._by_rollout: dict[str, _Wait] = {}
        self._lock = threading.Lock()

    def seconds(self, rollout: str) -> float:
        """So far, calls that still wait included."""
        with self._lock:
            wait = self._by_rollout.get(rollout)
            return wait.so_far(time.monotonic()) if wait else 0.0

    @contextmanager
    def counting(self, rollout: str) -> Iterator[None]:
        """Around one call's wait."""
        with self._lock:
            wait = self._by_rollout.setdefault(rollout, _Wait())
            if not wait.waiting:
                wait.since = time.monotonic()
            wait.waiting += 1
        try:
            yield
        finally:
            with self._lock:
                wait.seconds, wait.since = wait.so_far(time.monotonic()), time.monotonic()
                wait.waiting -= 1
                if not wait.waiting and wait.seconds < _NOTICEABLE_SECONDS:
                    del self._by_rollout[rollout]
