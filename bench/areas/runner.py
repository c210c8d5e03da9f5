"""Start of a runner: until it greets, and until its first rollout is done; against a Python process that imports dspy and evaluates."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cpu import cpu_seconds
from bench.fake_lm import FakeLM
from bench.figures import interleave
from bench.report import Figure, figure, measured
from bench.session import Session
from bench.side import Json, Side

AREA = "runner"
OTHER = "dspy.Evaluate"


@dataclass(frozen=True)
class Start:
    """Wall seconds until the process takes requests, until the first rollout is done, and its CPU seconds until then."""

    ready: float
    done: float
    cpu: float


def measure(session: Session) -> list[Figure]:
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
