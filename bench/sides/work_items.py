"""Claims, beats and publishes work items that do nothing, in threads: what a work item costs beside its work."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from bench.side import Json, serve
from distill.db import unit_of_work
from distill.jobs import claims
from distill.jobs.claims import WorkerInfo


def answer(request: Json) -> Json:
    """`drain`: handle every item of the queue with `threads`; the milliseconds of each item, and of the whole."""
    worker = WorkerInfo("bench", frozenset({request["capability"]}))
    began = time.monotonic()
    with ThreadPoolExecutor(request["threads"]) as pool:
        found = list(pool.map(lambda _: _until_empty(worker), range(request["threads"])))
    return {"seconds": time.monotonic() - began, "item_ms": [each for part in found for each in part]}


def _until_empty(worker: WorkerInfo) -> list[float]:
    times = []
    while (took := _one_item(worker)) is not None:
        times.append(took)
    return times


def _one_item(worker: WorkerInfo) -> float | None:
    """Milliseconds of one item, from its claim to its publication; None when there is none."""
    began = time.perf_counter()
    with unit_of_work() as s:
        claim = claims.claim(s, "rollouts", worker)
    if claim is None:
        return None
    with unit_of_work() as s:
        claims.beat(s, claim)
    with unit_of_work() as s:
        claims.publish(s, claim)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    serve(answer)
