"""A TCP proxy before PostgreSQL that cuts a connection at its COMMIT: before the server has seen it, or after, when its reply is lost."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal

from sqlalchemy import make_url

Moment = Literal["before", "after"]
_COMMIT = b"COMMIT\0"


class CutOff:
    """Use it as a block and connect to `url`. `armed` is set by the test, and taken back by the first COMMIT that is cut off."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self.armed: Moment | None = None
        self.cuts = 0

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return self._server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def __enter__(self) -> "CutOff":
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.host or "127.0.0.1", self._server.port or 5432))
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
                threading.Thread(target=self._carry_back, args=(server, client), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                moment = self.armed if _COMMIT in data else None
                if moment is not None:
                    self.armed, self.cuts = None, self.cuts + 1
                    _close(client)
                if moment == "after":
                    server.sendall(data)
                    server.settimeout(10)
                    server.shutdown(socket.SHUT_WR)  # it answers, into the void, and ends
                    return
                if moment == "before":
                    break
                server.sendall(data)
        _close(server)

    def _carry_back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                with contextlib.suppress(OSError):
                    client.sendall(data)
        _close(client)
        _close(server)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
