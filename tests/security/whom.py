"""Commands as another user, in a copy of this machine in which that user reaches the interpreter."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

UID = "12345"
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private")


def users() -> tuple[str, ...]:
    """As whom tests can run commands: an ordinary user always is one, root only where root runs the tests."""
    return ("root", "user") if os.geteuid() == 0 else ("user",)


def users_of_containers() -> tuple[str, ...]:
    """Those of Docker's. Only root can make what is one for the kernel."""
    return ("contained-root", "contained-user", "contained-composed") if os.geteuid() == 0 else ()


def as_user(user: str, command: list[str]) -> list[str]:
    """The command as it runs for that user; in a container it is the first process. Raises RuntimeError where bubblewrap is missing."""
    if os.geteuid() != 0:
        return command
    if user in users_of_containers():
        return ["unshare", *_NAMESPACES, sys.executable, "-m", "tests.security.contained", user.removeprefix("contained-"), *command]
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RuntimeError("bubblewrap is not installed: apt-get install bubblewrap, or the package of that name elsewhere")
    become = [] if user == "root" else ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"]
    return [bwrap, "--cap-add", "ALL", "--dev-bind", "/", "/", *_opened(), "--", *become, *command]


def _opened() -> list[str]:
    """An interpreter under a folder of root alone is seen by all, and nothing else that is in there."""
    needed = Path(sys.base_prefix)
    closed = [folder for folder in (needed, *needed.parents) if not folder.stat().st_mode & 0o001]
    if not closed:
        return []
    return ["--perms", "0755", "--tmpfs", str(closed[-1]), *_folders(needed, closed[-1]), "--ro-bind", str(needed), str(needed)]


def _folders(needed: Path, below: Path) -> list[str]:
    between = [folder for folder in reversed(needed.parents) if folder.is_relative_to(below) and folder != below]
    return [part for folder in between for part in ("--dir", str(folder))]
