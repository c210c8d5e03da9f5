"""Rows with a canary, and what erases them, for the tests of erasure."""

from __future__ import annotations

import threading
from typing import Any

from starlette.testclient import TestClient

from distill.jobs import erasing
from distill.jobs.models import Job
from tests.integration.execute.house import CATEGORIES, House
from tests.integration.execute.stored import searched
from tests.support.canaries import leaks
from tests.support.scripted_lm import Answer, Ask, Fail

Json = dict[str, Any]

CANARY = "canary-7c1d09e2"


def planted(n: int) -> list[Json]:
    return [{"message": f"{CANARY} {at} about {CATEGORIES[at % 3]}", "category": CATEGORIES[at % 3]} for at in range(n)]


def repeats(ask: Ask) -> Answer:
    """Two of the rows are refused by their host in their own words, so that rejections and events quote them."""
    message = ask.inputs["message"]
    if f"{CANARY} 1 " in message or f"{CANARY} 4 " in message:
        return Fail(400, message=f"cannot be answered: {message}")
    said = message.split()[-1]
    return {"category": said} if "category" in ask.outputs else {"answer": f"You wrote: {message}"}


def places(house: House) -> set[str]:
    return {place.split()[0] for place in leaks([CANARY], searched(house))}


def collect(house: House) -> None:
    erasing.carry_out(house.store, threading.Event())


def upload(api: TestClient, rows: list[Json], **named: Any) -> str:
    made = api.post("/v1/datasets", json={"rows": rows, **named}, headers={"Idempotency-Key": f"upload {len(rows)} {named}"})
    assert made.status_code == 201, made.text
    found: str = made.json()["id"]
    return found


def send(api: TestClient, content: bytes, name: str) -> str:
    reply = api.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
    assert reply.status_code == 200, reply.text
    found: str = reply.json()["id"]
    return found


def compiled(house: House, dataset: str, **more: Any) -> Job:
    return house.succeed(house.submit(dataset, holdout={"n": 3}, smoke_test=None, num_threads=4, **more))
