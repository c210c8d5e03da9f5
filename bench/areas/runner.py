"""Start of a runner: until it greets, and until its first rollout is done; against a Python process that imports dspy and evaluates.

And what each rung of the sandbox adds to a start, in pairs with a runner on none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from bench.cpu import cpu_seconds
from bench.fake_lm import FakeLM
from bench.figures import interleave, median_interval
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Json, Side

AREA = "runner"
OTHER = "dspy.Evaluate"
NO_RUNG = "none"


@dataclass(frozen=True)
class Start:
    """Wall seconds until the process takes requests, until the first rollout is done, and its CPU seconds until then."""

    ready: float
    done: float
    cpu: float


def measure(session: Session) -> list[Figure]:
    return [*_beside_dspy(session), *_on_rungs(session)]


def _beside_dspy(session: Session) -> list[Figure]:
    rounds = session.size(2, 7)
    session.expect(2 * rounds)
    environment = session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache")))
    logs = session.folder(AREA)
    with FakeLM(0.0, environment) as lm, Side("our_rollouts", environment, logs / "ours.log") as ours:

        def runner() -> Start:
            session.tick("a runner")
            reply = passed(ours.ask(op="start", url=lm.url))
            return Start(reply["to_hello"], reply["seconds"], cpu_seconds(reply["pid"]))

        def stock() -> Start:
            session.tick("a process with dspy")
            with Side("stock_evaluate", environment, logs / "stock.log") as side:
                reply = passed(side.ask(op="run", url=lm.url, n=1, in_flight=1))
                return Start(side.start_seconds, side.start_seconds + reply["seconds"], cpu_seconds(side.pid))

        starts, others = interleave(rounds, [runner, stock])
    return _figures(starts, others)


def passed(reply: Json) -> Json:
    """The reply, if its one example passed: a figure of a failure is no figure."""
    if reply["passed"] != 1:
        raise RuntimeError("the first rollout did not pass")
    return reply


def _figures(ours: list[Start], other: list[Start]) -> list[Figure]:
    cpu = measured("CPU s", "lower", [each.cpu for each in ours], [each.cpu for each in other])
    ready = measured("s", "lower", [each.ready for each in ours], [each.ready for each in other])
    done = measured("s", "lower", [each.done for each in ours], [each.done for each in other])
    return [
        figure(AREA, "start to ready", ready, n=1, other_name=OTHER, details={"other_imports_dspy_first": True}),
        figure(AREA, "start to first rollout done", done, n=1, cpu=cpu, other_name=OTHER),
    ]


def _on_rungs(session: Session) -> list[Figure]:
    """Nothing before the greeting is the server's first try of its rungs, which is once for each worker."""
    rounds = session.size(2, 25)
    with Side("runner_starts", session.environment(), session.folder(AREA) / "starts.log") as side:
        rungs = side.ask(op="holding")["rungs"]
        session.expect(rounds * (1 + len(rungs)))

        def start(rung: str) -> Json:
            session.tick(f"a runner on {rung}")
            return side.ask(op="start", rung=rung)

        for rung in (NO_RUNG, *rungs):
            side.ask(op="start", rung=rung)  # files that are read for the first time
        plain, *locked = interleave(rounds, [partial(start, rung) for rung in (NO_RUNG, *rungs)])
    return [_added(rung, found, plain) for rung, found in zip(rungs, locked, strict=True)]


def _added(rung: str, locked: list[Json], plain: list[Json]) -> Figure:
    wall, cpu = ([[each[key] for each in side] for side in (locked, plain)] for key in ("seconds", "cpu"))
    details: dict[str, Detail] = {"load": os.getloadavg()[0]}
    for name, (ours, other) in (("added_ms", wall), ("added_cpu_ms", cpu)):
        added = median_interval([1000 * (one - two) for one, two in zip(ours, other, strict=True)])
        details |= {name: added.median, f"{name}_low": added.low, f"{name}_high": added.high}
    return figure(
        AREA,
        f"start on {rung}",
        measured("s", "lower", *wall),
        n=1,
        cpu=measured("CPU s", "lower", *cpu),
        other_name="a runner without a sandbox",
        details=details,
    )
