"""``python -I -S -c <this text> TARGETS``: try to get out of a sandbox in eleven ways, and print what was read and that all was tried.

Whether a way led out is judged outside, by what arrived there; only what was read has to be told. Standard library only.
"""

import fcntl
import glob
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SECONDS = 0.3
F_SETSIG = 10  # <fcntl.h>
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"


def connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as out:
        out.settimeout(SECONDS)
        out.connect(address)


def send(port: int, content: bytes, *, connected: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        if connected:
            out.connect(("127.0.0.1", port))
            out.send(content)
        else:
            out.sendto(content, ("127.0.0.1", port))


def content(paths: list[str]) -> str:
    """Of files, and the names in folders, as far as they can be read."""
    found = []
    for path in paths:
        with suppress(OSError):
            if os.path.isdir(path):
                found.extend(os.listdir(path))
            else:
                with open(path, "rb") as file:
                    found.append(file.read(4096).decode("latin-1"))
    return "\n".join(found)


def write(paths: list[str]) -> None:
    for path in paths:
        with suppress(OSError), open(path, "w") as file:
            file.write("out")


def change(path: str) -> None:
    """What is known of a file beside its content."""
    ways: list[Callable[[], None]] = [
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.out", b"out"),
        lambda: os.chmod(path, 0o400),
    ]
    for way in ways:
        with suppress(OSError):
            way()


def kill(pid: int) -> None:
    """By its number, and by a pipe that tells it that there is something to read."""
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, pid)
    fcntl.fcntl(reading, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writing, b"out")


def main(targets: dict[str, Any]) -> None:
    read: dict[str, str] = {}

    def keep(name: str, paths: list[str]) -> None:
        read[name] = content(paths)

    ways: list[Callable[[], None]] = [
        lambda: connect(socket.AF_INET, ("127.0.0.1", targets["tcp"])),
        lambda: send(targets["udp"], b"out", connected=True),
        lambda: send(targets["dns"], QUERY, connected=False),
        lambda: connect(socket.AF_UNIX, "\0" + targets["abstract_socket"]),
        lambda: connect(socket.AF_UNIX, targets["database_socket"]),
        lambda: keep("private_files", targets["private_files"]),
        lambda: keep("environments", glob.glob("/proc/[0-9]*/environ")),
        lambda: keep("other_runner", [targets["other_runner"]]),
        lambda: write(targets["write_outside"]),
        lambda: change(targets["change_outside"]),
        lambda: kill(targets["signal"]),
    ]
    for way in ways:
        with suppress(OSError):
            way()
    print(json.dumps({"read": read, "tried": len(ways)}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
