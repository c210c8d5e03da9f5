"""The rungs of the sandbox: what becomes of a command so that it runs in one.

`bubblewrap` shows it a file system of its own, in namespaces of its own. `landlock` leaves it in ours and forbids nearly all of it. Both
end in `inside.py`, which takes the limits, becomes a user of its own where it can, and loads the filter of system calls.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distill.sandbox import files, seccomp
from distill.sandbox.owners import Owner

PATH = "/usr/local/bin:/usr/bin:/bin"
PROGRAMS = f"{PATH}:/usr/sbin"
INSIDE = Path(__file__).with_name("inside.py")
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one sandboxed process may use. `address_space_mb` counts reserved memory, thread stacks included, so it is generous.

    `processes` counts threads, and all that the process starts. `scratch_mb` is for all files together, where the rung can tell.
    `memory_mb` is for the memory of all its processes together, which is looked at from outside; half of the machine's, or of the
    container's limit, where that is less.
    """

    address_space_mb: int = 16 * 1024
    open_files: int = 8192
    file_size_mb: int = 256
    processes: int = 2048
    scratch_mb: int = 512
    memory_mb: int = 16 * 1024

    def by_name(self) -> dict[str, int]:
        return {
            "RLIMIT_AS": self.address_space_mb * MEGABYTE,
            "RLIMIT_FSIZE": self.file_size_mb * MEGABYTE,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True)
class Place:
    """Where one sandboxed process lives: its interpreter, its home, the only folder that it may write to, and its user where it has one."""

    python: str
    home: Path
    limits: Limits = field(default_factory=Limits)
    owner: Owner | None = None

    @property
    def uid(self) -> int | None:
        return self.owner.uid if self.owner else None


class Rung(Protocol):
    """One way of locking a process in. `is_in_memory`: nothing of its home is on the disk."""

    name: str
    is_in_memory: bool

    def command(self, argv: Sequence[str], place: Place) -> list[str]:
        """The command that runs `argv`, an absolute path first, inside. Raises OSError when it cannot be had here."""
        ...


class Bubblewrap:
    """Namespaces: no network, no other processes, and of the file system what is needed to read."""

    name = "bubblewrap"
    is_in_memory = True

    def command(self, argv: Sequence[str], place: Place) -> list[str]:
        program = shutil.which("bwrap", path=PROGRAMS)
        if program is None:
            raise FileNotFoundError(2, "bwrap is not installed", "bwrap")
        return [program, *_NAMESPACES, *_privileges(place), *_system(), *_places(place), "--", *_inside(argv, place, counts_others=False)]


class Landlock:
    """No namespaces, for containers: other processes are seen but not reached, and the file system ends at what is needed to read.

    `newest` is the version of the kernel's interface that is used where there are newer ones. Before version 6 a process whose user is the
    worker's sends signals to itself alone.
    """

    name = "landlock"
    is_in_memory = False

    def __init__(self, newest: int = 6) -> None:
        self._newest = newest

    def command(self, argv: Sequence[str], place: Place) -> list[str]:
        rules = {
            "read": [*files.SYSTEM, *files.SETTINGS, *files.MACHINE, *files.of_interpreter(place.python)],
            "devices": list(files.DEVICES),
            "written": [str(place.home)],
        }
        return _inside(argv, place, counts_others=place.owner is None, landlock=rules, newest=self._newest)


RUNGS: tuple[Rung, ...] = (Bubblewrap(), Landlock())
"""The best first."""

_NAMESPACES = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--new-session", "--hostname", "runner"),
)
_SHARED_MEMORY_MB = 64


def _privileges(place: Place) -> list[str]:
    """As root no user namespace is made: a user of its own is another one for the kernel too, so that its limits are its own."""
    if place.owner is None:
        return ["--unshare-user"]
    return ["--cap-drop", "ALL", *_each("--cap-add", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")]  # to become it, and to drop the rest


def _each(option: str, *values: str) -> list[str]:
    return [part for value in values for part in (option, value)]


def _system() -> list[str]:
    arguments = list[str]()
    for path in files.SYSTEM:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    for path in files.SETTINGS:
        arguments += ["--ro-bind-try", path, path]
    size = str(_SHARED_MEMORY_MB * MEGABYTE)
    # The device folder and the root are made by bubblewrap, in memory: closed, or what is written there would count nowhere.
    return [*arguments, "--proc", "/proc", "--dev", "/dev", *_memory("/dev/shm", size), "--remount-ro", "/dev", *_memory("/tmp", size)]  # noqa: S108


def _places(place: Place) -> list[str]:
    """The home is in memory: what it may hold in all is bounded, and nothing of it stays."""
    home = str(place.home)
    arguments = list[str]()
    needed = files.of_interpreter(place.python)
    for folder in sorted({str(parent) for path in (*needed, home) for parent in Path(path).parents[:-1]}):
        arguments += ["--dir", folder]  # bubblewrap would close those that are closed outside, and its user is another one here
    for path in needed:
        arguments += ["--ro-bind", path, path]
    return [*arguments, *_memory(home, str(place.limits.scratch_mb * MEGABYTE)), "--remount-ro", "/", "--chdir", home]


def _memory(path: str, size: str) -> list[str]:
    return ["--perms", "1777", "--size", size, "--tmpfs", path]


def _inside(
    argv: Sequence[str], place: Place, *, counts_others: bool, landlock: dict[str, list[str]] | None = None, newest: int = 0
) -> list[str]:
    policy: dict[str, Any] = {
        "limits": place.limits.by_name(),
        "counts_others": counts_others,
        "uid": place.uid,
        "landlock": landlock,
        "newest": newest,
        "signals": seccomp.signals(),
        "of_files": seccomp.of_files(),
        "seccomp": base64.b64encode(seccomp.program(keeps_metadata=landlock is not None)).decode(),
    }
    return [place.python, "-I", "-S", "-c", INSIDE.read_text(encoding="utf-8"), json.dumps(policy), *argv]
