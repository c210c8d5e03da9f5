"""A runner's way to the relay. It may make no sockets: it asks for a connection with one byte, and gets one handed in."""

from __future__ import annotations

import os
import socket
import threading

# The variable with the number of the file descriptor, in a runner's environment.
DOOR_VARIABLE = "STILLHOUSE_RELAY_DOOR"


class Door:
    """Thread-safe."""

    def __init__(self, descriptor: int | None) -> None:
        self._socket = None if descriptor is None else socket.socket(fileno=descriptor)
        if self._socket is not None:
            self._socket.set_inheritable(False)  # what a program starts has no business there
        self._lock = threading.Lock()

    @classmethod
    def of_environment(cls) -> Door:
        """The one that this process was given; without one, no relay is reached."""
        number = os.environ.pop(DOOR_VARIABLE, None)
        return cls(None if number is None else int(number))

    def connect(self) -> socket.socket:
        """A connection to the relay. Raises OSError."""
        if self._socket is None:
            raise ConnectionRefusedError("there is no door to a relay")
        with self._lock:
            self._socket.send(b"?")
            _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not descriptors:
            raise ConnectionRefusedError("the relay takes no connections")
        os.set_inheritable(descriptors[0], False)
        return socket.socket(fileno=descriptors[0])
