"""Tasks for the comparison of Celery's pools, under the server's own Celery settings: `celery -A bench.celery_probe worker --pool …`."""

from __future__ import annotations

import os
import subprocess
import time
from functools import cache
from typing import Any

import orjson
import redis

from distill.queue import make_app
from distill.settings import get_settings

NOOP = "bench.noop"
SUPERVISE = "bench.supervise"
LINES = 100
"""Of one supervised child: about what a slice of rollouts sends while its supervisor reads and checks it."""

app = make_app()


@cache
def _client(_pid: int) -> Any:
    """One a process, made in it: a forked child may not use its parent's sockets."""
    return redis.Redis.from_url(get_settings().redis_url)


def noop(answer_to: str) -> None:
    _client(os.getpid()).lpush(answer_to, "0")


def supervise(answer_to: str) -> None:
    """What a worker's task does: start a child, send it lines of JSON, read and check what comes back. Answers with its milliseconds."""
    began = time.perf_counter()
    line = orjson.dumps({"index": 1, "inputs": {"question": "?" * 400}}) + b"\n"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the child has no pipes")
        for _ in range(LINES):
            child.stdin.write(line)
            child.stdin.flush()
            orjson.loads(child.stdout.readline())
        child.stdin.close()
    _client(os.getpid()).lpush(answer_to, str(1000 * (time.perf_counter() - began)))


app.task(name=NOOP)(noop)
app.task(name=SUPERVISE)(supervise)
