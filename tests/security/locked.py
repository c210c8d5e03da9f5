"""``python -m tests.security.locked RUNG WHAT…``: run attacks on a rung, or on none, and print what came of each as JSON.

A process of its own, since the suite asks it as root and as an ordinary user.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill import processes, sandbox
from distill.relay import Relay
from distill.rollouts import Runner
from distill.sandbox import RUNGS, Choice, Limits, Rung
from distill.sandbox.rungs import Landlock
from tests.security.weakened import Weakened

ATTACKER = Path(__file__).with_name("attacker.py")
PYTHON = sys.executable
LIMITS = Limits(address_space_mb=1024, file_size_mb=4, processes=64, scratch_mb=8)
NO_BOUND_MB = 1 << 20
SECONDS = 30.0
A_MOMENT = 1.0


def place(rung: Rung | None, what: str, argument: str) -> sandbox.Cell:
    """Where the attacker tries it."""
    limits = replace(LIMITS, scratch_mb=NO_BOUND_MB) if lacks(rung, "room") else LIMITS
    return sandbox.make(rung, PYTHON, ["-I", "-S", "-c", ATTACKER.read_text(encoding="utf-8"), what, argument], limits)


def lacks(rung: Rung | None, part: str) -> bool:
    return isinstance(rung, Weakened) and rung.lacks(part)


def attack(rung: Rung | None, what: str, argument: str = "") -> Any:
    """What the attacker says of it."""
    cell = place(rung, what, argument)
    try:
        done = subprocess.run(cell.command, env=cell.environment(), cwd=cell.home, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout)
    finally:
        cell.close()


def ways(rung: Rung | None) -> Any:
    outcome = sandbox.try_rung(rung, PYTHON)
    return outcome.reason or list(outcome.got_out)


def fills_the_disk(rung: Rung | None) -> Any:
    """Whether the files of a program were bounded by themselves, or are seen to be too many."""
    elsewhere = "/dev /dev/shm /tmp / /var/tmp" if rung else ""
    cell = place(rung, "many_files", elsewhere)
    try:
        done = subprocess.run(cell.command, env=cell.environment(), cwd=cell.home, capture_output=True, text=True, timeout=SECONDS)
        return {"written": json.loads(done.stdout), "is_seen": cell.is_overfull(list)}
    finally:
        cell.close()


def holds_removed_files(rung: Rung | None) -> Any:
    """As with many files, and none of them in a folder any more."""
    cell = place(rung, "removed", "40")
    try:
        tree = processes.start(cell.command, cell.environment(), cwd=cell.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert tree.stdin is not None
        assert tree.stdout is not None
        with tree.stdin, tree.stdout:
            found = {"written": json.loads(tree.stdout.readline()), "is_seen": cell.is_overfull(tree.members)}
        tree.end()
        return found
    finally:
        cell.close()


def left_for_the_next(rung: Rung | None) -> Any:
    """What one process could write somewhere, and what of it another finds that starts when the first is gone, by the same user."""
    name = f"left-{secrets.token_hex(8)}"
    return {"left": attack(rung, "leaves", name), "found": attack(rung, "finds", name)}


def leaves_a_child(rung: Rung | None) -> Any:
    """Whether something of the process is still there after its end; on a rung it is started as runners are."""
    cell = place(rung, "outlives", "")
    (reading, writing), (waited_for, held) = os.pipe(), os.pipe()
    try:
        with os.fdopen(writing, "wb") as stdout, os.fdopen(waited_for, "rb") as stdin:
            if rung is None or lacks(rung, "guard"):
                subprocess.run(cell.command, env=cell.environment(), stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, check=True)
            else:
                processes.start(cell.command, cell.environment(), cwd=cell.home, stdin=stdin, stdout=stdout).wait(SECONDS)
        os.read(reading, 16)
        ended = bool(select.select([reading], [], [], A_MOMENT)[0]) and os.read(reading, 16) == b""
        return not ended
    finally:
        os.close(held)
        os.close(reading)
        cell.close()


def to_another(rung: Rung | None) -> Any:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, cwd="/") as other:
        found = attack(rung, "others", str(other.pid))
        other.kill()
    return found


def real_runner(rung: Rung | None) -> Any:
    """What one greets with, by the interpreter and the packages that programs run with."""
    runner = Runner(PYTHON, Relay(), sandbox=Choice(rung))
    runner.kill()
    return sorted(runner.greeting)


ATTACKS: dict[str, Callable[[Rung | None], Any]] = {
    "ways": ways,
    "forks": lambda rung: attack(rung, "forks", "100"),
    "allocates": lambda rung: attack(rung, "allocates", "2048"),
    "one_file": lambda rung: attack(rung, "one_file", "16"),
    "many_files": fills_the_disk,
    "removed": holds_removed_files,
    "changes": lambda rung: attack(rung, "changes"),
    "planted": lambda rung: attack(rung, "planted", "/etc/passwd"),
    "next": left_for_the_next,
    "outlives": leaves_a_child,
    "calls": lambda rung: attack(rung, "calls"),
    "sockets": lambda rung: attack(rung, "sockets"),
    "status": lambda rung: attack(rung, "status"),
    "others": to_another,
    "reads": lambda rung: attack(rung, "reads", f"/proc/1/environ {Path.home() / '.pgpass'}"),
    "runner": real_runner,
    "works": lambda rung: attack(rung, "works"),
}


def named(name: str) -> Rung | None:
    """`landlock-3` is the rung on a kernel that has version 3 of Landlock, `landlock+walls,owner` it is without these parts."""
    whole, _, without = name.partition("+")
    kind, _, version = whole.partition("-")
    rung = Landlock(int(version)) if version else {each.name: each for each in RUNGS}.get(kind)
    return Weakened(rung, without.split(",")) if rung and without else rung


def main(name: str, *names: str) -> None:
    rung = named(name)
    print(json.dumps({each: ATTACKS[each](rung) for each in names or ATTACKS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
