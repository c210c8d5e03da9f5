"""Code of users that speaks in the place of its runner, in steps that roll nothing out: what its job tells of is its own fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from distill.db import unit_of_work
from distill.jobs.models import JobEvent
from distill.rollouts import ProgramHost
from tests.integration.execute.house import SUPPORT, House, rows
from tests.support.bundles import PYTHON, bundle

Json = dict[str, Any]
DESK = """
import gc
import dspy
from stillhouse_programs import ops

class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict("message -> category")

    def forward(self, message):
        return self.classify(message=message)

def right(example, prediction, trace=None):
    return True

def taken_over(table):
    honest = table[OP]
    async def tell(request, emit):
        for event in EVENTS:
            await emit(event)
        return await honest(request, emit) if GOES_ON else {}
    table[OP] = tell

for each in gc.get_objects() if OP else ():
    if type(each) is ops.Ops:
        taken_over(each._table)
if not OP:  # while it is validated: that has begun by then
    ops._digest_of = lambda spec, body: "another's"
"""
NO_ROW: Json = {"event": "rejected", "trace_digest": "0", "call": 0, "predictor": "classify", "reason": "not_text", "message": "none"}
TRACE: Json = {
    "event": "trace",
    "index": 99,
    "n": 0,
    "trace": {
        **{"status": "ok", "inputs": {}, "outputs": {}, "calls": [], "error": None, "foreign_calls": 0, "seconds": 0.0},
        "usage": {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "lms": {}},
    },
}
NO_HOLDOUT: Json = {"holdout": {"n": 0}, "evaluate": {"roles": []}}
ROUTER: Json = {"predictors": SUPPORT["predictors"][:1]}
ELSEWHERE, SILENT = "told of something that was not asked", "did not tell of all that was asked"


def told(house: House, op: str = "", events: Sequence[Json] = (), *, goes_on: bool = True) -> tuple[str, str]:
    """Code and message of the first trouble of a job whose program, or its metric where labels teach, says this."""
    text = DESK.replace("OP", repr(op)).replace("EVENTS", repr(events)).replace("GOES_ON", repr(goes_on))
    sent = house.send(bundle({"desk.py": text}))
    job_id = house.submit(rows(4), **(_labelled(sent) if op == "label_traces" else _described(house, sent)), **NO_HOLDOUT)
    trouble = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.message.like("Will try again: %"))

    def first(_: object = None) -> JobEvent | None:
        with unit_of_work() as s:
            return s.scalars(trouble).first()

    house.run(job_id, until=lambda job: first() is not None)
    event = first()
    assert event is not None
    return (event.data or {})["code"], event.message


def _described(house: House, sent: str) -> Json:
    asked = {"reference": "desk:Desk", "kwargs": {}, "bundle": sent}
    return {"program": ProgramHost(house.ports.runners).describe(house.project_id, asked, python=PYTHON)["program"]}


def _labelled(sent: str) -> Json:
    return {"teacher": "labels", "metric": {"type": "reference", "reference": "desk:right", "bundle": sent}, "program": ROUTER}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("events", "goes_on", "says"),
    [([{**NO_ROW, "trace_digest": "x"}], True, ELSEWHERE), ([NO_ROW], True, ELSEWHERE), ([NO_ROW], False, SILENT)],
    ids=["of no trace", "twice", "not of all"],
)
def test_of_rows(house: House, events: list[Json], goes_on: bool, says: str) -> None:
    code, message = told(house, "render_rows", events, goes_on=goes_on)
    assert (code, message) == ("runner_died", f"Will try again: The program's process {says}")


@pytest.mark.slow
def test_of_programs(house: House) -> None:
    code, message = told(house)
    assert (code, message) == ("runner_died", "Will try again: The program's process broke the protocol: it does not answer validate")


@pytest.mark.slow
def test_of_labels(house: House) -> None:
    code, message = told(house, "label_traces", [TRACE])
    assert (code, message) == ("runner_died", f"Will try again: The program's process {ELSEWHERE}")
