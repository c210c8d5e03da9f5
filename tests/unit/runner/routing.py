"""A small program, the LM that answers it, and the requests that tests send to a runner about it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from distill.relay import WITHOUT_END, Amount, Block, Grant, Relay, Target
from distill.rollouts import Runner
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

Json = dict[str, Any]
LMS = {"teacher": {"slot": "teacher", "options": {"temperature": 0.7, "max_tokens": None}}}
ROUTER: Json = {
    "spec_version": 1,
    "predictors": [
        {
            "name": "self",
            "lm": "teacher",
            "signature": {
                "instructions": "Route a message.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {"name": "team", "role": "output", "schema": {"type": "string", "enum": ["billing", "other"]}},
                ],
            },
        }
    ],
}


def route(ask: Ask) -> Answer:
    """The team is in the message."""
    return {"team": "billing" if "invoice" in ask.inputs["message"] else "other"}


def grant(relay: Relay, lm: ScriptedLM, max_calls: int | None = None) -> Grant:
    target = Target("scripted", lm.url, "upstream", max_in_flight=1000)
    block = WITHOUT_END if max_calls is None else Block(Amount(max_calls, inf, inf))
    return relay.grant({"teacher": target}, block)


def example(index: int, message: str, team: object, *rollouts: Json) -> Json:
    return {
        "index": index,
        "inputs": {"message": message},
        "labels": {"team": team},
        "rollouts": list(rollouts) or [{"n": 0, "seed": index}],
    }


def run(runner: Runner, token: str, examples: list[Json], **changes: Any) -> list[Json]:
    body = {
        "program_key": "router",
        "token": token,
        "width": 8,
        "time_limit_seconds": 10,
        "metric": {"type": "exact_match"},
        "min_score": 1.0,
    }
    return list(runner.request("rollouts", silence_seconds=30, **{**body, "examples": examples, **changes}))


def of(events: list[Json], kind: str) -> list[Json]:
    return sorted((event for event in events if event["event"] == kind), key=lambda event: (event["index"], event.get("n", 0)))


@contextmanager
def fresh(relay: Relay) -> Iterator[Runner]:
    runner = Runner(sys.executable, relay)
    try:
        yield runner
    finally:
        runner.kill()
