"""Claims, beats and publishes work items that do nothing, in threads: what a work item costs beside its work."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from bench.side import Json, serve
from distill.db import unit_of_work
from distill.jobs import claims
from distill.jobs.claims import WorkerInfo


def answer(request: Json) -> Json:
    """`drain`: handle every item of the queue with `threads`; the milliseconds of each item, and of the whole. `some`: `items` of them, the
    milliseconds of claims and publications apart."""
    worker = WorkerInfo("bench", frozenset({request["capability"]}))
    if request["op"] == "some":
        return _some(worker, request["threads"], request["items"])
    began = time.monotonic()
    with ThreadPoolExecutor(request["threads"]) as pool:
        found = list(pool.map(lambda _: _until_empty(worker), range(request["threads"])))
    return {"seconds": time.monotonic() - began, "item_ms": [each for part in found for each in part]}


def _until_empty(worker: WorkerInfo) -> list[float]:
    times = []
    while (took := _one_item(worker)) is not None:
        times.append(took)
    return times


def _some(worker: WorkerInfo, threads: int, items: int) -> Json:
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        found = [pair for pair in pool.map(lambda _: _claim_and_publish(worker), range(items)) if pair is not None]
    seconds = time.monotonic() - began
    return {"seconds": seconds, "claim_ms": [pair[0] for pair in found], "publish_ms": [pair[1] for pair in found]}


def _claim_and_publish(worker: WorkerInfo) -> tuple[float, float] | None:
    """Milliseconds of the one and of the other; None when there is nothing to claim."""
    began = time.perf_counter()
    with unit_of_work() as s:
        claim = claims.claim(s, "rollouts", worker)
    if claim is None:
        return None
    claimed = time.perf_counter()
    with unit_of_work() as s:
        claims.publish(s, claim)
    return 1000 * (claimed - began), 1000 * (time.perf_counter() - claimed)


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
