"""The same rollout, made twice at once: the trace that is stored first stands, and both jobs go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.execute.client_player import TOML
from tests.integration.execute.house import SUPPORT, House, configured, knows, rows
from tests.support.scripted_lm import Ask, ScriptedLM

Json = dict[str, Any]
ROUTER: Json = {"predictors": SUPPORT["predictors"][:1]}
LATE = rows(6)[1]
OTHERS = "account"
"""What somebody else's teacher made of that row: it is wrong."""


class Overtaken:
    """A teacher that is right, and slow at one row: before it answers, somebody sends another answer in."""

    def __init__(self) -> None:
        self.api: TestClient | None = None
        self.job = ""

    def __call__(self, ask: Ask) -> Json:
        if ask.inputs["message"] == LATE["message"] and self.api is not None:
            self.send(self.api)
        return dict(knows(ask))

    def send(self, api: TestClient) -> None:
        inputs, outputs = {"message": LATE["message"]}, {"category": OTHERS}
        call = {"predictor": "classify", "inputs": inputs, "outputs": outputs}
        trace = {"role": "teacher:0", "row": 2, "rollout": 0, "status": "ok", "outputs": outputs, "calls": [call]}
        reply = api.post(f"/v1/compile_jobs/{self.job}/traces", json={"traces": [trace]})
        assert reply.json().get("new") == 1, reply.text


@pytest.fixture
def overtaken() -> Overtaken:
    return Overtaken()


@pytest.fixture
def teacher(overtaken: Overtaken) -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=overtaken) as lm:
        yield lm


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student, call_seconds=60) as opened:
        yield opened


def test_the_first_answer_is_what_both_tell_of(house: House, api: TestClient, overtaken: Overtaken) -> None:
    more: Json = {"holdout": {"n": 0}, "evaluate": {"roles": []}}
    overtaken.job = house.submit(rows(6), ROUTER, **more)
    overtaken.api = api
    told = []
    for job_id in (overtaken.job, house.submit(rows(6), ROUTER, **more)):
        house.succeed(job_id)
        found = api.get(f"/v1/compile_jobs/{job_id}/traces").json()["data"]
        one = next(each for each in found if each["row"] == 2)
        told.append((one["outputs"], one["score"]["value"], one["score"]["passed"]))
    assert told == [({"category": OTHERS}, 0.0, False)] * 2
    assert len(house.teacher.calls) == 6
