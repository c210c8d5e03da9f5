"""Sends tasks to one queue and waits for their answers in Redis: there is no result backend, here as in the server."""

from __future__ import annotations

import time
from typing import Any

import redis

from bench.celery_probe import NOOP, SUPERVISE, app
from bench.side import Json, serve
from distill.settings import get_settings

_PATIENCE_SECONDS = 60
_ANSWERS = "bench:answers"


def answer(request: Json) -> Json:
    """`one_by_one`: milliseconds of each no-op round trip. `together`: seconds for `n` tasks of `task` that are sent at once."""
    client: Any = redis.Redis.from_url(get_settings().redis_url)
    began = time.monotonic()
    times: list[float] = []
    inside: list[float] = []
    if request["op"] == "one_by_one":
        for _ in range(request["n"]):
            sent = time.perf_counter()
            _send(NOOP, request["queue"])
            _receive(client, 1)
            times.append(1000 * (time.perf_counter() - sent))
    else:
        for _ in range(request["n"]):
            _send({"noop": NOOP, "supervise": SUPERVISE}[request["task"]], request["queue"])
        inside = _receive(client, request["n"])
    return {"seconds": time.monotonic() - began, "trip_ms": times, "inside_ms": inside}


def _send(task: str, queue: str) -> None:
    app.send_task(task, args=[_ANSWERS], queue=queue, ignore_result=True)


def _receive(client: Any, number: int) -> list[float]:
    """The milliseconds that each task says it took. Raises TimeoutError."""
    found = []
    for _ in range(number):
        answered = client.brpop([_ANSWERS], timeout=_PATIENCE_SECONDS)
        if answered is None:
            raise TimeoutError("a task did not answer")
        found.append(float(answered[1]))
    return found


if __name__ == "__main__":
    serve(answer)
