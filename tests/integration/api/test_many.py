"""Long lists and broken streams: nothing is skipped, nothing comes twice."""

from __future__ import annotations

import random
from collections.abc import Sequence

import httpx
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.ids import new_id
from distill.jobs import events
from distill.jobs.models import Job
from tests.integration.api.conftest import Tokens, job_body

DROPS, SEED = 50, 7
COLUMNS = ", ".join(f'"{column.name}"' for column in Job.__table__.columns if column.name != "id")


def copies(job_id: str, count: int) -> list[str]:
    """Insert so many jobs that are like one but for their ids; returns the ids."""
    ids = [new_id("cjob") for _ in range(count)]
    with unit_of_work() as s:
        like = f"SELECT fresh, {COLUMNS} FROM jobs, unnest(CAST(:ids AS text[])) AS fresh WHERE jobs.id = :job"
        s.execute(text(f"INSERT INTO jobs (id, {COLUMNS}) {like}"), {"ids": ids, "job": job_id})
    return ids


@pytest.mark.slow
class TestPages:
    @pytest.mark.parametrize(("order", "jobs"), [("desc", 10_000), ("asc", 2_000)])
    def test_all_jobs_come_once_while_others_are_inserted(self, api: TestClient, order: str, jobs: int) -> None:
        one = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        api.post(f"/v1/compile_jobs/{one}/cancel")
        there = [one, *copies(one, jobs - 1)]
        seen: list[str] = []
        after: dict[str, str] = {}
        more = True
        while more:
            page = api.get("/v1/compile_jobs", params={"limit": 100, "order": order, **after}).json()
            seen += [job["id"] for job in page["data"]]
            more, after = page["has_more"], {"after": page["last_id"]}
            copies(one, 3)
        assert len(seen) == len(set(seen))
        expected = set(there)
        assert [each for each in seen if each in expected] == sorted(there, reverse=order == "desc")


@pytest.mark.slow
class TestStream:
    def test_fifty_drops_leave_no_gap_and_no_repeat(self, address: str, tokens: Tokens) -> None:
        chance = random.Random(SEED)
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {tokens.all}"}, timeout=60) as client:
            job = client.post("/v1/compile_jobs", json=job_body()).json()["id"]
            got: list[int] = []
            for _ in range(DROPS):
                with unit_of_work() as s:
                    for number in range(10):
                        events.append(s, job, "log", f"{number}\u2028")
                got += read(client, job, got, lines=chance.randrange(1, 40))
            client.post(f"/v1/compile_jobs/{job}/cancel")
            got += read(client, job, got)
            last = client.get(f"/v1/compile_jobs/{job}").json()
            assert last["status"] == "cancelled"
            with unit_of_work() as s:
                assert got == [event.seq for event in events.after(s, job, 0, 10_000)]
            assert got == list(range(1, len(got) + 1))
            assert len(got) > DROPS * 10


def read(client: httpx.Client, job: str, got: Sequence[int], lines: int | None = None) -> list[int]:
    """The numbers of the events that arrived whole before the connection was dropped after so many lines; else all to the end."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(got[-1] if got else 0)}
    whole: list[int] = []
    with client.stream("GET", f"/v1/compile_jobs/{job}/events", headers=headers) as response:
        number = 0
        for count, line in enumerate(response.iter_lines(), 1):
            if line.startswith("id:"):
                number = int(line.removeprefix("id:"))
            elif not line and number:
                whole.append(number)
                number = 0
            if count == lines:
                break
    return whole
