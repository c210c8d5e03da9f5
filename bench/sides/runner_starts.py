"""Runners that greet and are ended, each on a rung of the sandbox or on none: what a start costs, guard and sandbox included."""

from __future__ import annotations

import sys
import time

import psutil

from bench.cpu import cpu_seconds
from bench.side import Json, serve
from distill.relay import Relay
from distill.rollouts import Runner
from distill.sandbox import RUNGS, Choice, try_rung


def answer(request: Json) -> Json:
    """`holding` names the rungs that hold on this machine; `start` makes a runner on the `rung` of this name, or on none."""
    if request["op"] == "holding":
        return {"rungs": [rung.name for rung in RUNGS if try_rung(rung).holds]}
    rung = {each.name: each for each in RUNGS}.get(request["rung"])
    began = time.monotonic()
    runner = Runner(sys.executable, Relay(), sandbox=Choice(rung))
    seconds = time.monotonic() - began
    cpu = cpu_seconds(psutil.Process(runner.pid).ppid())
    runner.kill()
    return {"seconds": seconds, "cpu": cpu}


if __name__ == "__main__":
    serve(answer)
