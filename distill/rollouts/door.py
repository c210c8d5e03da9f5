"""How a runner gets connections to the relay: it may make no sockets, so they are made here and handed in."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_FEW_BYTES = 4096
"""Of handed connections that the runner has not fetched yet; the kernel counts them all for this process."""


class Door:
    """Each byte that comes through asks for a connection, which goes back as a file descriptor; without one where the relay is gone."""

    def __init__(self, relay_socket: str) -> None:
        self._relay_socket = relay_socket
        self._ours, self.theirs = socket.socketpair()
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _FEW_BYTES)
        threading.Thread(target=self._serve, name="runner-door", daemon=True).start()

    def close(self) -> None:
        """Hand out no more connections."""
        self.theirs.close()
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._ours, suppress(OSError):
            while self._ours.recv(1):
                self._hand_over()

    def _hand_over(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(self._relay_socket)
            except OSError:
                self._ours.send(b"-")
            else:
                socket.send_fds(self._ours, [b"+"], [connection.fileno()])
