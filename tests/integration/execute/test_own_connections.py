"""Jobs whose teacher is a project's own connection: the key of the moment, and where it is not."""

import json
import logging
from typing import Any

import pytest
from sqlalchemy import text

from distill.catalog import own_connections
from distill.catalog.models import Connection
from distill.db import Base, unit_of_work
from distill.jobs import connection_use, retrying
from stack.network import LOOPBACK
from tests.integration.execute.house import House, knows, rows
from tests.support.databases import forget_settings
from tests.support.scripted_lm import Answer, Ask, Fail
from workers.tasks import CAPABILITIES

KEY = "canary-5f3d9b1c7a2e4680-last"
OTHER_KEY = "another-8c1e5a7d3b9f2046-tail"


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_EGRESS__HOSTS", json.dumps([LOOPBACK]))
    forget_settings()


@pytest.fixture
def own(house: House) -> Connection:
    values = {"kind": "lm_host", "base_url": house.teacher.url, "models": ["big"], "supports": [], "prices": {}, "max_in_flight": 4}
    with unit_of_work() as s:
        return own_connections.create(s, house.project_id, "ours", values, KEY, None)


def change(house: House, own: Connection, **changes: Any) -> None:
    with unit_of_work() as s:
        own_connections.change(s, house.project_id, own.id, changes)


def ours() -> dict[str, Any]:
    return {"teacher": [{"lms": {"student": {"connection": "ours"}}}]}


def everything_stored() -> str:
    """Every row of every table, as text."""
    with unit_of_work() as s:
        return "\n".join(line for table in Base.metadata.tables for line in s.scalars(text(f"SELECT t::text FROM {table} t")))


def error(house: House, job_id: str) -> dict[str, Any]:
    job = house.run(job_id)
    assert job.status == "failed"
    return job.error or {}


class TestTheKey:
    def test_goes_along_and_is_in_no_row_blob_or_log(
        self, house: House, own: Connection, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        house.teacher.api_key = KEY
        house.teacher.answer = lambda ask: Fail(400, message=f"with {KEY}") if "Message 2 " in ask.text else knows(ask)
        with caplog.at_level(logging.DEBUG):
            job = house.run(house.submit(rows(6), **ours()), 240)
        assert job.status == "succeeded", job.error
        assert len(house.teacher.calls) >= 6
        stored = everything_stored()
        assert "with [redacted]" in stored
        assert KEY not in stored
        assert KEY.encode().hex() not in stored
        assert KEY not in "".join((caplog.text, *capfd.readouterr()))
        assert not [path for path in house.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]

    def test_another_one_holds_for_a_job_that_runs(self, house: House, own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("distill.catalog.own_keys.FRESH_SECONDS", 0.0)
        asked = []

        def answer(ask: Ask) -> Answer:
            asked.append(ask)
            if len(asked) == 3:
                house.teacher.api_key = OTHER_KEY
                change(house, own, api_key=OTHER_KEY)
            return knows(ask)

        house.teacher.api_key, house.teacher.answer = KEY, answer
        job = house.run(house.submit(rows(6), num_threads=1, **ours()), 240)
        assert job.status == "succeeded", job.error

    def test_a_wrong_one_fails_the_job_and_says_whose(self, house: House, own: Connection) -> None:
        house.teacher.api_key = OTHER_KEY
        fault = error(house, house.submit(rows(6), **ours()))
        assert (fault["code"], fault["param"]) == ("connection_unauthorized", "teacher")


class TestAnotherAddress:
    def test_gets_no_key_and_no_call_of_a_job_from_before(self, house: House, own: Connection) -> None:
        job_id = house.submit(rows(6), **ours())
        change(house, own, base_url=house.student.url, api_key=OTHER_KEY)
        assert error(house, job_id)["code"] == "connection_changed"
        assert house.teacher.calls == house.student.calls == []

    def test_in_the_middle_of_a_slice_ends_its_calls(self, house: House, own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("distill.catalog.own_keys.FRESH_SECONDS", 0.0)

        def answer(ask: Ask) -> Answer:
            change(house, own, base_url=house.student.url, api_key=OTHER_KEY)
            return knows(ask)

        house.teacher.answer = answer
        fault = error(house, house.submit(rows(6), num_threads=1, **ours()))
        assert fault["code"] in ("connection_unauthorized", "connection_changed")
        assert {call.headers["Authorization"] for call in house.teacher.calls} == {f"Bearer {KEY}"}
        assert house.student.calls == []


class TestRemoved:
    def test_a_retry_says_so(self, house: House, own: Connection) -> None:
        house.teacher.api_key = OTHER_KEY
        job_id = house.submit(rows(6), **ours())
        error(house, job_id)
        with unit_of_work() as s:
            connection_use.remove(s, house.project_id, own.id)
        with unit_of_work() as s:
            retrying.retry(s, house.project_id, job_id)
        assert error(house, job_id)["code"] == "connection_removed"


class TestWorkersOfTheReleaseBefore:
    def test_get_no_work_for_it(self, house: House, own: Connection) -> None:
        job_id = house.submit(rows(3), **ours())
        with unit_of_work() as s:
            needs = s.scalars(text("SELECT needs FROM work_items WHERE job_id = :id"), {"id": job_id}).all()
        assert needs == [["runtime:default", "connections:own"]]
        assert set(needs[0]) <= CAPABILITIES
        house.run(job_id, until=lambda job: job.step == "bootstrap")
        with unit_of_work() as s:
            asking = s.scalars(text("SELECT needs FROM work_items WHERE job_id = :id AND connections <> '{}'"), {"id": job_id}).all()
        assert [bool("connections:own" in each) for each in asking if each] == [True] * len(asking)
