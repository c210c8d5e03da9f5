"""How a runner gets connections to the relay: it may make no sockets, so they are made here and handed in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress

import structlog

from distill.relay import RunnerConnections, TooManyConnections

log = structlog.get_logger(__name__)

_FEW_BYTES = 4096
"""Of handed connections that the runner has not fetched yet; the kernel counts them all for this process."""


class Door:
    """Each byte that comes through asks for a connection. The answer is `+` with a file descriptor, `=` where the runner holds as many
    connections as it may, or `-` where the relay is gone. `owner`: whose runner it is, for the log."""

    def __init__(self, connections: RunnerConnections, owner: Mapping[str, str]) -> None:
        self._connections, self._owner = connections, owner
        self._is_logged = False
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
        try:
            connection = self._connections.connect()
        except TooManyConnections:
            self._log_once()
            self._ours.send(b"=")
        except OSError:
            self._ours.send(b"-")
        else:
            with connection:
                socket.send_fds(self._ours, [b"+"], [connection.fileno()])

    def _log_once(self) -> None:
        if not self._is_logged:
            self._is_logged = True
            log.warning("runner_connections_exhausted", **self._owner, most=self._connections.most)
