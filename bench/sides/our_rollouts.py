"""Our side of rollouts: what a worker does for a slice, without the database: a relay and a runner, traces and scores read back."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

from bench.fake_lm import ANSWER
from bench.side import Json, serve
from bench.task import program, questions
from distill.relay import Grant, Relay, Target
from distill.rollouts import Runner, RunnerPool

PROGRAM_KEY = "bench"
LMS = {"student": {"slot": "student", "options": {}}}


class Rollouts:
    """One relay and one warm runner for all rounds."""

    def __init__(self) -> None:
        self._relay = Relay()
        self._pool = RunnerPool(self._relay.start(), {"default": sys.executable})
        self._runner: Runner | None = None
        self._held = ExitStack()

    def answer(self, request: Json) -> Json:
        """`start` makes a new runner and runs one example; `run` gives the warm one `n` examples, `in_flight` at a time."""
        if request["op"] == "start":
            return self._start(request)
        if self._runner is None:
            raise ValueError("start comes first")
        return self._run(self._runner, request)

    def _start(self, request: Json) -> Json:
        began = time.monotonic()
        self._held.close()
        # Held until the next one starts: the pool ends runners that nobody holds.
        runner = self._runner = self._held.enter_context(self._pool.runner("bench", f"job-{began}"))
        greeted = time.monotonic() - began
        counted = self._run(runner, {**request, "n": 1, "in_flight": 1})
        return {**counted, "seconds": time.monotonic() - began, "to_hello": greeted, "pid": runner.pid}

    def _run(self, runner: Runner, request: Json) -> Json:
        target = Target("fake", request["url"], "fake", max_in_flight=request["in_flight"])
        grant = self._relay.grant({"student": target})
        runner.ensure_open(PROGRAM_KEY, program=program(), lms=LMS, prompt_adapter="chat")
        examples = [_example(index, text) for index, text in enumerate(questions(request["n"]))]
        began = time.monotonic()
        counted = _events(runner, grant, examples, request["in_flight"])
        seconds = time.monotonic() - began
        grant.revoke()
        return {"seconds": seconds, **counted}


def _example(index: int, question: str) -> Json:
    return {"index": index, "inputs": {"question": question}, "labels": {"category": ANSWER}, "rollouts": [{"n": 0, "seed": index}]}


def _events(runner: Runner, grant: Grant, examples: list[Json], width: int) -> Json:
    plan: dict[str, Any] = {"width": width, "time_limit_seconds": 60, "metric": {"type": "exact_match"}, "min_score": 1.0}
    passed = traces = 0
    events = runner.request("rollouts", silence_seconds=90, program_key=PROGRAM_KEY, token=grant.token, examples=examples, **plan)
    for event in events:
        traces += event["event"] == "trace"
        passed += event["event"] == "score" and event["score"]["passed"]
    return {"traces": traces, "passed": passed}


if __name__ == "__main__":
    serve(Rollouts().answer)
