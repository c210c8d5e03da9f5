"""The embedded Valkey (speaks Redis): configuration file, start command, readiness."""

import socket
from pathlib import Path

from stack.binaries import find_valkey
from stack.network import LOOPBACK, free_port
from stack.parts import Part, Watched


class EmbeddedValkey:
    """A Valkey server on the loopback address with a password.

    Args:
        home: where the folder `valkey` with configuration and append-only file lives.
        password: of the server.
        fast: no durability: for tests.
        port: None takes a free one.
    """

    def __init__(self, home: Path, password: str, *, fast: bool = False, port: int | None = None) -> None:
        self._folder, self._password, self._fast = home / "valkey", password, fast
        self.port = port or free_port()

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Write the configuration; the password stands in a private file, not in the argument list.

        noeviction: a full server refuses a hint, which is sent again; one that evicts loses them in silence. The append-only file, written
        every second, makes a restart cost a second of hints; a snapshot (`save`) would only say the same more rarely.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config.touch(mode=0o600)
        self._config.write_text(
            f"bind {LOOPBACK}\n"
            f"port {self.port}\n"
            f'dir "{self._folder}"\n'
            f"requirepass {self._password}\n"
            'save ""\n'
            "maxmemory-policy noeviction\n"
            f"appendonly {'no' if self._fast else 'yes'}\n"
            "appendfsync everysec\n"
            "loglevel warning\n"
        )

    def part(self) -> Part:
        """The start command. `prepare` comes first."""
        return Part(name="valkey", command=(str(find_valkey()), str(self._config)), tier=0, ready=self._pings)

    @property
    def _config(self) -> Path:
        return self._folder / "valkey.conf"

    def _pings(self, _watched: Watched) -> bool:
        """Answers PONG. While it reads its append-only file it answers LOADING instead, and the caller asks again."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                received = b""
                while b"+PONG" not in received and (chunk := connection.recv(64)):
                    received += chunk
                return b"+PONG" in received
        except OSError:
            return False
