"""A program and a metric that treat their process badly, as the first word of a message says: by accident, as code of a team's own does."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
from typing import Any

import dspy


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("held", threading.Lock())


def behave(how: str) -> None:
    """`dies` ways end the process, the others only try."""
    if how == "exits":
        os._exit(3)
    if how == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfaults":
        ctypes.string_at(0)
    if how == "greedy":
        bytearray(1 << 50)
    if how == "blocks":
        ctypes.PyDLL(None).sleep(3600)  # in C, and with the interpreter's lock
    if how == "leaves":
        leave_a_child()
    faults: dict[str, BaseException] = {
        "quits": SystemExit(4),
        "interrupts": KeyboardInterrupt(),
        "shouts": ValueError("x" * 30_000_000),
        "mumbles": ValueError("\ud800"),
        "mute": Unprintable(),
        "locked": Unpicklable(),
    }
    if how in faults:
        raise faults[how]


def leave_a_child() -> None:
    """In a session of its own, with a name to find it by: numbers of processes are others outside of a sandbox."""
    name = secrets.token_hex(8)
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", name], start_new_session=True)
    raise ValueError(f"left {name}")


class Hostile(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("message -> answer")

    def forward(self, message: str) -> dspy.Prediction:
        behave(message.split()[0])
        return self.answer(message=message)


def make_hostile() -> Hostile:
    return Hostile()


def hostile_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    behave(example.message.split()[1])
    return True
