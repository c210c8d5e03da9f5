"""Whether a rung holds on this machine: a process inside tries to get out in eleven ways, and what it reached is looked at from outside."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import scratch
from distill.sandbox import cell, files
from distill.sandbox.rungs import Limits, Rung
from distill.sandbox.seccomp import UnknownProcessor

PROBE = Path(__file__).with_name("probe.py")
SECONDS = 20.0
WAYS = 11


@dataclass(frozen=True)
class Outcome:
    """What became of one rung's self-test. `got_out` names the ways that led out; `reason` says why the rung does not run at all."""

    rung: str
    got_out: tuple[str, ...] = ()
    reason: str = ""

    @property
    def holds(self) -> bool:
        return not self.got_out and not self.reason

    def __str__(self) -> str:
        if self.got_out:
            return f"{self.rung} does not hold: {', '.join(self.got_out)}"
        return f"{self.rung} does not start: {self.reason}" if self.reason else f"{self.rung} holds"


def try_rung(rung: Rung | None, python: str = sys.executable, private: Sequence[Path] = ()) -> Outcome:
    """Try it with one interpreter. `private` are files and folders of which nothing may be read, beside those made for the test.

    Without a rung, it is the process as it would run in no sandbox.
    """
    name = rung.name if rung else "none"
    with ExitStack() as held:
        bait = held.enter_context(_bait(private, files.of_interpreter(python)))
        try:
            lived_in = cell.make(rung, python, ["-I", "-S", "-c", PROBE.read_text(encoding="utf-8"), json.dumps(bait.targets)], Limits())
        except (OSError, UnknownProcessor) as error:
            return Outcome(name, reason=getattr(error, "strerror", None) or str(error))
        held.callback(lived_in.close)
        said = _run(lived_in)
        if isinstance(said, str):
            return Outcome(name, reason=said)
        return Outcome(name, tuple(bait.taken(said["read"])))


def _run(lived_in: cell.Cell) -> dict[str, Any] | str:
    """What the probe printed; where it did not get to its end, why."""
    try:
        done = subprocess.run(
            lived_in.command, env=lived_in.environment(), cwd=lived_in.home, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        said: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    except ValueError:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with exit code {done.returncode}"
    return said if said["tried"] == WAYS else "the self-test was not done to its end"


class _Bait:
    """What is there to be reached, and how it is seen that it was."""

    def __init__(self, private: Sequence[Path], needed: Sequence[str]) -> None:
        """`needed` are the interpreter's own files, which are read inside wherever they are."""
        self._canary = secrets.token_hex(16)
        self._private = [path for path in {Path("/root"), *_home(), *private} if os.access(path, os.R_OK)]
        self._folder = scratch.make_folder("bait")
        shown = (*needed, str(self._folder))  # homes of sandboxed processes lie beside it, so the way there is seen inside
        self._names = {entry.name for path in self._private if path.is_dir() for entry in path.iterdir() if not _leads_to(entry, shown)}
        self._other = scratch.make_folder("runner")
        (self._folder / "sealing.key").write_text(self._canary)
        (self._other / "prompt").write_text(self._canary)
        self._listeners = {
            "tcp": _bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": _bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "dns": _bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract_socket": _bound(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self._canary}"),
            "database_socket": _bound(socket.AF_UNIX, socket.SOCK_STREAM, str(self._folder / "s")),
        }
        self._decoy = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"CANARY": self._canary})
        # Where anybody may write, and where only this process may.
        self._written = [Path(tempfile.gettempdir(), f"stillhouse-{self._canary}"), self._folder / "written"]
        self._kept = self._folder / "kept"
        self._kept.touch(0o600)
        self._unchanged = self._kept.stat().st_ctime_ns

    @property
    def targets(self) -> dict[str, Any]:
        ports = {name: self._listeners[name].getsockname()[1] for name in ("tcp", "udp", "dns")}
        return {
            **ports,
            "abstract_socket": self._canary,
            "database_socket": str(self._folder / "s"),
            "private_files": [str(self._folder / "sealing.key"), *map(str, self._private)],
            "other_runner": str(self._other / "prompt"),
            "write_outside": [str(path) for path in self._written],
            "change_outside": str(self._kept),
            "signal": self._decoy.pid,
        }

    def taken(self, read: dict[str, str]) -> Iterator[str]:
        """The names of the ways that led out."""
        yield from (name for name, listener in self._listeners.items() if _was_reached(listener))
        if self._canary in read["private_files"] or self._names & set(read["private_files"].splitlines()):
            yield "private_files"
        if self._canary in read["environments"]:
            yield "environments"
        if self._canary in read["other_runner"]:
            yield "other_runner"
        if any(path.exists() for path in self._written):
            yield "write_outside"
        if self._kept.stat().st_ctime_ns != self._unchanged:
            yield "change_outside"
        with suppress(subprocess.TimeoutExpired):
            self._decoy.wait(0.02)
            yield "signal"

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._decoy.kill()
        self._decoy.communicate()
        for path in self._written:
            path.unlink(missing_ok=True)
        for folder in (self._folder, self._other):
            shutil.rmtree(folder)


@contextmanager
def _bait(private: Sequence[Path], needed: Sequence[str]) -> Iterator[_Bait]:
    bait = _Bait(private, needed)
    try:
        yield bait
    finally:
        bait.close()


def _bound(family: int, kind: int, address: Any) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.bind(address)
    listener.setblocking(False)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    return listener


def _was_reached(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(512)
        else:
            listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _home() -> list[Path]:
    """Of this user, unless it has none, or one that everybody may see."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    return [home] if home != Path("/") and not any(home.is_relative_to(each) for each in files.SYSTEM) else []


def _leads_to(entry: Path, shown: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(entry) for path in shown)
