"""Rollouts a second and CPU a call: runner and relay against dspy.Evaluate, on one LM that answers at once or after 200 ms."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench.fake_lm import FakeLM
from bench.figures import interleave
from bench.report import Detail, Figure, Measure, figure, measured
from bench.session import Session
from bench.side import Side

AREA = "rollouts"
OTHER = "dspy.Evaluate"
LATENCIES = (0.0, 0.2)
IN_FLIGHT = (1, 64, 256)
_WARM_UP = 8


@dataclass(frozen=True)
class Setting:
    """One row of the table: an LM and how many calls may be in flight."""

    lm: FakeLM
    in_flight: int
    n: int

    @property
    def name(self) -> str:
        return f"LM of {self.lm.latency * 1000:.0f} ms, {self.in_flight} in flight"


@dataclass(frozen=True)
class Round:
    """What one side did in one round: rollouts a second, CPU ms a call, most calls in flight as the LM saw it."""

    rate: float
    cpu_ms: float
    peak: int


def measure(session: Session) -> list[Figure]:
    rounds = session.size(1, 5)
    session.expect(2 * rounds * len(LATENCIES) * len(IN_FLIGHT))
    environment = session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache")))
    logs = session.folder(AREA)
    with ExitStack() as stack:
        ours = stack.enter_context(Side("our_rollouts", environment, logs / "ours.log"))
        stock = stack.enter_context(Side("stock_evaluate", environment, logs / "stock.log"))
        lms = [stack.enter_context(FakeLM(latency, environment)) for latency in LATENCIES]
        _warm_up(ours, stock, lms[0])
        settings = [Setting(lm, width, _count(session, lm.latency, width)) for lm in lms for width in IN_FLIGHT]
        return [_compare(session, setting, ours, stock, rounds) for setting in settings]


def _warm_up(ours: Side, stock: Side, lm: FakeLM) -> None:
    ours.ask(op="start", url=lm.url)
    for side in (ours, stock):
        side.ask(op="run", url=lm.url, n=_WARM_UP, in_flight=_WARM_UP)


def _count(session: Session, latency: float, in_flight: int) -> int:
    """Calls of one round: without latency a fixed number, with it some seconds at full width."""
    if not latency:
        return session.size(60, 1000)
    return max(session.size(3, 15), in_flight * session.size(1, 10))


def _compare(session: Session, setting: Setting, ours: Side, stock: Side, rounds: int) -> Figure:
    sides = [partial(_round, session, setting, ours, "ours"), partial(_round, session, setting, stock, "stock")]
    mine, theirs = interleave(rounds, sides)
    wall = measured("rollouts/s", "higher", [each.rate for each in mine], [each.rate for each in theirs])
    cpu = measured("CPU ms/call", "lower", [each.cpu_ms for each in mine], [each.cpu_ms for each in theirs])
    details = _ideal(setting, wall, mine, theirs) if setting.lm.latency else {}
    return figure(AREA, setting.name, wall, n=setting.n, cpu=cpu, other_name=OTHER, details=details)


def _ideal(setting: Setting, wall: Measure, mine: list[Round], theirs: list[Round]) -> dict[str, Detail]:
    """How many calls were really in flight, and what that many would give. An LM that answers at once has nothing in flight."""
    ideal = setting.in_flight / setting.lm.latency
    return {
        "peak_in_flight_ours": max(each.peak for each in mine),
        "peak_in_flight_other": max(each.peak for each in theirs),
        "ideal": ideal,
        "share_of_ideal_ours": wall.ours / ideal,
        "share_of_ideal_other": (wall.other or 0.0) / ideal,
    }


def _round(session: Session, setting: Setting, side: Side, who: str) -> Round:
    session.tick(f"{setting.name}: {who}")
    before = setting.lm.stats()
    timed = side.timed(op="run", url=setting.lm.url, n=setting.n, in_flight=setting.in_flight)
    after = setting.lm.stats()
    served = after["served"] - before["served"]
    if served != setting.n or timed.reply["passed"] != setting.n:
        raise RuntimeError(f"{who}: {served} calls and {timed.reply['passed']} passes of {setting.n}")
    return Round(setting.n / timed.seconds, 1000 * timed.cpu_seconds / setting.n, after["peak"])
