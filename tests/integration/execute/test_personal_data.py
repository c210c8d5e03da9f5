"""Projects that have personal data taken out of their traces: none is in what a rollout leaves, and rows are accepted as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.execute import context as contexts
from distill.execute.rollout_slice import Slice
from distill.jobs.models import Job
from tests.integration.execute.client_player import TOML, Player, create
from tests.integration.execute.house import CATEGORIES, House, PretendTrainer, configured
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

Json = dict[str, Any]

pytestmark = pytest.mark.slow

NEEDLES = ("canary", "901820", "4111 1111", "0532 0130")
REQUEST: Json = {"num_threads": 4, "evaluate": {"roles": []}, "holdout": {"n": 0}, "smoke_test": None}
USERS_OWN = {"datasets", "idempotency_keys"}
"""Tables that hold what a user sent, as it was sent."""


def data_of(at: int) -> str:
    return f"canary{at}@example.com, 030 901820 or +49 30 901820, card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00"


def rows(n: int) -> list[dict[str, str]]:
    return [
        {"message": f"Ticket {at}: I am {data_of(at)} and ask about {CATEGORIES[at % 3]}", "category": CATEGORIES[at % 3]}
        for at in range(n)
    ]


def repeats(ask: Ask) -> Answer:
    """What it was told. It cannot be read about the first example, and its host refuses the second one with its own words."""
    message = ask.inputs["message"]
    said = message.split()[-1]
    if "category" in ask.outputs and "canary0@" in message:
        return f"I would rather write to {data_of(0)}"
    if "category" in ask.outputs and "canary1@" in message:
        return Fail(400, message=f"cannot be answered: {message}")
    return {"category": said} if "category" in ask.outputs else {"answer": f"To:\n{data_of(7)}\nabout {message}"}


@pytest.fixture
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=repeats) as lm:
        yield lm


@pytest.fixture
def house(request: pytest.FixtureRequest, database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    """Its project scrubs, or does what the test's parameter says."""
    said = getattr(request, "param", '[projects.default]\nscrub = "DE"\n')
    with configured(tmp_path, TOML + said, teacher, student) as opened:
        yield opened


def places(house: House) -> set[str]:
    """Tables, blobs and files of a training in which a needle is, but for what a user sent."""
    assert isinstance(house.trainer, PretendTrainer)
    with unit_of_work() as s:
        tables = set(s.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))) - USERS_OWN
        texts = {table: " ".join(s.scalars(text(f'SELECT "{table}"::text FROM "{table}"'))) for table in sorted(tables)}
        sent = " ".join(s.scalars(text("SELECT datasets::text FROM datasets")))
        made = [digest for digest in s.scalars(text("SELECT digest FROM blobs")) if digest not in sent]
    texts |= {f"blob {digest}": house.store.read(digest).decode(errors="replace") for digest in made}
    texts["training"] = json.dumps([each["texts"] for each in house.trainer.jobs])
    return {place.split()[0] for place, found in texts.items() if any(needle in found for needle in NEEDLES)}


def trained_on(house: House) -> list[str]:
    assert isinstance(house.trainer, PretendTrainer)
    return [json.dumps(line) for each in house.trainer.jobs for line in each["texts"]]


def compiled(house: House, **more: Any) -> Job:
    job = house.compile(rows(8), **{**REQUEST, **more})
    assert job.status == "succeeded", job.error
    return job


class TestServer:
    def test_leaves_none_anywhere_and_its_rows_are_accepted(self, house: House, api: TestClient) -> None:
        job = compiled(house)
        assert places(house) == set()
        texts = trained_on(house)
        assert len(texts) == 2 * 6, "two predictors, and all examples but the two that were not answered"
        assert all("[EMAIL_1], [PHONE_1] or [PHONE_1], card [CARD_1], IBAN [IBAN_1]" in each for each in texts)
        told = api.get(f"/v1/compile_jobs/{job.id}/rejections").text
        assert "[EMAIL_1]" in told
        assert not any(needle in told for needle in NEEDLES)

    @pytest.mark.parametrize("house", ["", "[projects.other]\nscrub = true\n"], indirect=True, ids=["by-default", "of-another-project"])
    def test_keeps_all_where_nobody_asked_for_it(self, house: House, api: TestClient) -> None:
        compiled(house)
        assert {"traces", "row_facts", "blob", "training"} <= places(house)
        assert len(trained_on(house)) == 2 * 6
        assert "[EMAIL_" not in "".join(trained_on(house))

    def test_takes_them_out_of_what_labels_teach_too(self, house: House, api: TestClient) -> None:
        labelled = [{**row, "answer": f"To {data_of(at)}"} for at, row in enumerate(rows(6))]
        job = house.compile(labelled, **{**REQUEST, "teacher": "labels"})
        assert job.status == "succeeded", job.error
        assert places(house) == set()
        assert any("To [EMAIL_1]" in each for each in trained_on(house))


def test_a_metric_that_is_asked_again_sees_what_the_program_answered(house: House, api: TestClient) -> None:
    """As where the runner died under it: what is stored is no answer to be judged."""
    job_id = house.submit(rows(3), **REQUEST)
    house.run(job_id, until=lambda job: job.step == "bootstrap")
    with unit_of_work() as s:
        job = contexts.load(s, job_id)
    piece = Slice(job, "teacher:0", job.examples(house.store, "train", 0, 1))
    (item,), (phase,) = piece.items, piece.phases
    answered: Json = {"status": "ok", "inputs": {}, "outputs": {"category": data_of(1)}, "calls": [], "error": None, "usage": {"calls": 0}}
    stored = piece.take_trace(item, 0, answered)
    assert piece.request(item, phase)["rollouts"][0]["trace"] == answered
    assert stored.body == piece.traces[stored.digest] != answered


class TestSentIn:
    def test_traces_that_are_sent_in_have_none_and_their_scores_still_find_them(self, house: House, api: TestClient) -> None:
        """A score names the answer that it judged, as the client has it. The second one's number is known by what was asked alone."""
        job_id = create(api, trainset=rows(12))
        house.run(job_id, until=lambda job: job.step == "bootstrap")
        for row, source, note in ((1, "client", f"for {data_of(3)}"), (2, "import", "2) 030 901820")):
            answer = {"category": "billing", "note": note}
            calls = [{"predictor": "classify", "inputs": {"message": data_of(2)}, "outputs": answer, "raw": json.dumps(answer)}]
            trace = {"role": "teacher:0", "row": row, "status": "ok", "outputs": answer, "calls": calls}
            assert send(api, job_id, "traces", {"traces": [trace], "source": source})["new"] == 1
            score = {"role": "teacher:0", "row": row, "value": 1.0, "feedback": f"canary{row}@example.com is right"}
            other = {**score, "outputs": {**answer, "note": "for nobody"}}
            assert send(api, job_id, "scores", {"scores": [other]})["skipped"] == 1
            assert send(api, job_id, "scores", {"scores": [{**score, "outputs": answer}]})["new"] == 1
        failed = {"role": "teacher:0", "row": 3, "status": "failed", "error": {"type": "ValueError", "message": f"no {data_of(5)}"}}
        assert send(api, job_id, "traces", {"traces": [failed]})["new"] == 1
        player = Player(api)
        item = player.claim(job_id)
        assert item is not None
        left_out = {"row": 4, "code": "time_limit", "message": f"took too long for {data_of(6)}"}
        player.send(item, [example for example in item["examples"] if example["row"] > 4])
        assert player.publish(item, undecided=[left_out]).json()["status"] == "succeeded"
        assert places(house) == set()
        with unit_of_work() as s:
            (stored,) = s.scalars(text("SELECT body FROM traces WHERE source = 'import'"))
        (call,) = json.loads(stored)["calls"]
        assert json.loads(call["raw"]) == call["outputs"] == json.loads(stored)["outputs"]


def send(api: TestClient, job_id: str, part: str, body: Json) -> Json:
    reply = api.post(f"/v1/compile_jobs/{job_id}/{part}", json=body)
    assert reply.status_code == 200, reply.text
    told: Json = reply.json()
    return told
