"""What the queue costs a work item: its claim and its publication, with few and with very many items queued."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api import callers, job_body, noop_stack
from bench.areas.jobs import wait_for_job
from bench.figures import percentile
from bench.noop_names import CAPABILITY, PREFIX
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Side, Timed
from stack.supervisor import Stack

AREA = "line"
HOLDERS = (1, 8)


def measure(session: Session) -> list[Figure]:
    rounds = session.size(2, 5)
    a_job, depths = session.size((50, (100, 300)), (1000, (2000, 100_000)))
    session.expect(1 + len(depths) * (1 + rounds * len(HOLDERS)))
    session.tick("starting the stack")
    with noop_stack(session) as stack:
        environment = session.environment(**stack.layout.server_environment())
        with Side("work_items", environment, session.folder(AREA) / "work_items.log") as side:
            figures, queued = list[Figure](), 0
            for depth in depths:
                session.tick(f"queueing {depth:,} work items")
                queued = _fill(stack, a_job, queued, depth)
                _some(side, max(HOLDERS), _number(session))  # connections and plans, which the first round would pay for
                figures += _at_depth(session, side, queued, rounds)
                queued -= (1 + rounds * len(HOLDERS)) * _number(session)
            return figures


def _number(session: Session) -> int:
    return session.size(10, 100)


def _fill(stack: Stack, a_job: int, queued: int, depth: int) -> int:
    """Jobs of so many items each until at least `depth` are queued; how many are now."""
    with callers(stack, 1) as (caller,):
        body, jobs = job_body(caller), []
        while queued < depth:
            jobs.append(caller.call("POST", "/v1/compile_jobs", {**body, "name": f"{PREFIX}{a_job}", "num_threads": 64}))
            queued += a_job
        for job in jobs:
            wait_for_job(caller, job["id"], lambda found: found["step"] == "bootstrap")
    return queued


def _at_depth(session: Session, side: Side, queued: int, rounds: int) -> list[Figure]:
    number, found = _number(session), dict[int, list[Timed]]()
    for _ in range(rounds):
        for holders in HOLDERS:
            session.tick(f"{queued:,} queued, {holders} at once")
            found.setdefault(holders, []).append(_some(side, holders, number))
    return [_figure(queued, holders, number, timed) for holders, timed in found.items()]


def _some(side: Side, holders: int, number: int) -> Timed:
    timed = side.timed(op="some", threads=holders, capability=CAPABILITY, items=number)
    if len(timed.reply["claim_ms"]) != number:
        raise RuntimeError(f"{len(timed.reply['claim_ms'])} of {number} items were claimed")
    return timed


def _figure(queued: int, holders: int, number: int, rounds: Sequence[Timed]) -> Figure:
    both = [[sum(pair) for pair in zip(timed.reply["claim_ms"], timed.reply["publish_ms"], strict=True)] for timed in rounds]
    parts = {name: [each for timed in rounds for each in timed.reply[f"{name}_ms"]] for name in ("claim", "publish")}
    details: dict[str, Detail] = {"p50_ms": percentile([each for part in both for each in part], 0.5)}
    for name, times in parts.items():
        details |= {f"{name}_p50_ms": percentile(times, 0.5), f"{name}_p95_ms": percentile(times, 0.95)}
    cpu = measured("CPU ms/item", "lower", [1000 * timed.cpu_seconds / number for timed in rounds])
    wall = measured("ms", "lower", [percentile(part, 0.95) for part in both])
    who = "one at a time" if holders == 1 else f"{holders} at once"
    return figure(AREA, f"claim and publish, {queued:,} queued, {who}, p95", wall, n=number, cpu=cpu, details=details)
