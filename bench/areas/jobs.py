"""Jobs over HTTP on the embedded servers: submit to first claim, POST and GET a second, and what a work item costs beside its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from bench.api import Caller, callers, claimed_at, job_body, noop_stack, side_by_side
from bench.cpu import cpu_seconds
from bench.figures import interleave, percentile
from bench.noop_names import CAPABILITY, PREFIX
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Side, Timed
from stack.supervisor import Stack

AREA = "jobs"
WIDTH = 8
_OVER = ("succeeded", "failed", "cancelled")
_PATIENCE_SECONDS = 60.0


def measure(session: Session) -> list[Figure]:
    rounds = session.size(2, 5)
    session.expect(2 + 4 * rounds)
    session.tick("starting the stack")
    with noop_stack(session) as stack, callers(stack, WIDTH) as clients:
        body = job_body(clients[0])
        return [
            *_first_claim(session, stack, clients[0], body),
            *_requests(session, stack, clients, body, rounds),
            *_work_items(session, stack, clients[0], body, rounds),
        ]


# ------------------------------------------------------------------ submit to first claim


def _first_claim(session: Session, stack: Stack, caller: Caller, body: dict[str, Any]) -> list[Figure]:
    """One job after another on an idle stack: API, outbox, dispatcher, Redis, Celery and the claim are in it."""
    session.tick("submit to first claim")
    sent: dict[str, float] = {}
    for _ in range(session.size(10, 200)):
        at = time.time()
        job = caller.call("POST", "/v1/compile_jobs", body)
        sent[job["id"]] = at
        wait_for_job(caller, job["id"], lambda found: found["status"] in _OVER)
    stamps = claimed_at(stack, list(sent))
    from_sent = [1000 * (stamps[each][1] - at) for each, at in sent.items()]
    from_stored = [1000 * (claimed - stored) for stored, claimed, _ in stamps.values()]
    finished = [1000 * (stamps[each][2] - at) for each, at in sent.items()]
    details: dict[str, Detail] = {"p95_ms": percentile(from_sent, 0.95), "p50_ms_from_stored": median(from_stored)}
    p95 = measured("ms", "lower", [percentile(from_sent, 0.95)])
    return [
        figure(AREA, "POST sent to first claim, p50", measured("ms", "lower", [median(from_sent)]), n=len(sent), details=details),
        figure(AREA, "POST sent to first claim, p95", p95, n=len(sent)),
        figure(AREA, "POST sent to job over (no-op), p50", measured("ms", "lower", [median(finished)]), n=len(sent)),
    ]


def wait_for_job(caller: Caller, job_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job once something is true of it; the server answers when it has changed. Raises RuntimeError after a minute."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    job = caller.call("GET", f"/v1/compile_jobs/{job_id}")
    while not holds(job):
        if time.monotonic() > deadline:
            raise RuntimeError(f"job {job_id} is {job['status']} in step {job['step']}")
        job = caller.call("GET", f"/v1/compile_jobs/{job_id}?wait=5")
    return job


# ------------------------------------------------------------------ requests


def _requests(session: Session, stack: Stack, clients: Sequence[Caller], body: dict[str, Any], rounds: int) -> list[Figure]:
    """Jobs that wait for `start`, so that nothing but the API and the database is at work."""
    number = session.size(40, 400)
    made: list[str] = []

    def post(caller: Caller, _: int) -> float:
        began = time.perf_counter()
        made.append(caller.call("POST", "/v1/compile_jobs", {**body, "auto_start": False})["id"])
        return 1000 * (time.perf_counter() - began)

    def get(caller: Caller, place: int) -> float:
        began = time.perf_counter()
        caller.call("GET", f"/v1/compile_jobs/{made[place % len(made)]}")
        return 1000 * (time.perf_counter() - began)

    posts, gets = interleave(rounds, [partial(_flood, session, stack, clients, number, act) for act in (post, get)])
    return [_request_figure("POST compile job", number, posts), _request_figure("GET compile job", number, gets)]


Flood = tuple[float, float, list[float]]
"""Requests a second, CPU ms of the API a request, and milliseconds of each request."""


def _flood(session: Session, stack: Stack, clients: Sequence[Caller], number: int, act: Callable[[Caller, int], float]) -> Flood:
    session.tick(f"requests, {len(clients)} side by side")
    if stack.crew is None:
        raise RuntimeError("the stack has stopped")
    api = stack.crew.child("api").pid
    before, began = cpu_seconds(api), time.monotonic()
    times = side_by_side(clients, range(number), act)
    seconds = time.monotonic() - began
    return number / seconds, 1000 * (cpu_seconds(api) - before) / number, times


def _request_figure(name: str, number: int, floods: Sequence[Flood]) -> Figure:
    times = [each for flood in floods for each in flood[2]]
    wall = measured("requests/s", "higher", [flood[0] for flood in floods])
    cpu = measured("API CPU ms", "lower", [flood[1] for flood in floods])
    details: dict[str, Detail] = {"connections": WIDTH, "p50_ms": median(times), "p95_ms": percentile(times, 0.95)}
    return figure(AREA, f"{name}, {WIDTH} connections", wall, n=number, cpu=cpu, details=details)


# ------------------------------------------------------------------ work items


def _work_items(session: Session, stack: Stack, caller: Caller, body: dict[str, Any], rounds: int) -> list[Figure]:
    """Claim, one beat and publish of items that do nothing: one holder alone, and several that claim from the same job."""
    number = session.size(30, 300)
    environment = session.environment(**stack.layout.server_environment())
    with Side("work_items", environment, session.folder(AREA) / "work_items.log") as side:

        def drain(threads: int) -> Timed:
            session.tick(f"work items, {threads} at once")
            job = caller.call("POST", "/v1/compile_jobs", {**body, "name": f"{PREFIX}{number}", "num_threads": 64})
            wait_for_job(caller, job["id"], lambda found: found["step"] == "bootstrap")
            timed = side.timed(op="drain", threads=threads, capability=CAPABILITY)
            caller.call("POST", f"/v1/compile_jobs/{job['id']}/cancel")
            if len(timed.reply["item_ms"]) != number:
                raise RuntimeError(f"{len(timed.reply['item_ms'])} of {number} items were claimed")
            return timed

        alone, together = interleave(rounds, [lambda: drain(1), lambda: drain(WIDTH)])
    return [_item_figure("one at a time", number, alone), _item_figure(f"{WIDTH} at once", number, together)]


def _item_figure(name: str, number: int, drained: Sequence[Timed]) -> Figure:
    times = [each for timed in drained for each in timed.reply["item_ms"]]
    wall = measured("ms/item", "lower", [1000 * timed.seconds / number for timed in drained])
    cpu = measured("CPU ms/item", "lower", [1000 * timed.cpu_seconds / number for timed in drained])
    details: dict[str, Detail] = {"items_per_second": 1000 / wall.ours, "p50_ms": median(times), "p95_ms": percentile(times, 0.95)}
    return figure(AREA, f"claim, beat and publish a work item, {name}", wall, n=number, cpu=cpu, details=details)
