"""What is older than a project keeps things is removed; what an open job, an alias or a model needs stays."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.execute import context as contexts
from distill.jobs import collecting, erasing, quotas, retention, service
from distill.jobs.models import Job
from tests.integration.core.world import execute, waits_for_a_lock
from tests.integration.execute.client_player import TOML
from tests.integration.execute.house import SUPPORT, House, configured, field_of, rows
from tests.support.scripted_lm import ScriptedLM


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


def compiled(house: House, **more: Any) -> Job:
    return house.succeed(house.submit(rows(9), holdout={"n": 3}, smoke_test=None, num_threads=4, **more))


def keep(api: TestClient, **days: int) -> None:
    assert api.patch("/v1/projects/default", json=days).status_code == 200


def carry_out() -> None:
    retention.carry_out(0, threading.Event())


def age_ids(table: str) -> None:
    """As a process makes them whose clock is decades behind the database's."""
    execute(f"UPDATE {table} SET id = overlay(id PLACING '00' FROM 7 FOR 2)")


def age(table: str) -> None:
    """As if its rows had been made long ago."""
    age_ids(table)
    execute(f"UPDATE {table} SET created_at = created_at - interval '3 days'")


def rollouts(api: TestClient) -> int:
    """Of this month, and of that of rows that `age` has aged."""
    months = {f"{at:%Y-%m}" for at in (datetime.now(UTC), datetime.now(UTC) - timedelta(days=3))}
    return sum(api.get("/v1/usage", params={"month": month}).json()["rollouts"] for month in months)


def age_jobs() -> None:
    execute("UPDATE jobs SET finished_at = finished_at - interval '3 days' WHERE finished_at IS NOT NULL")


def removed(api: TestClient) -> list[dict[str, int]]:
    """The newest first."""
    return [entry["data"] for entry in api.get("/v1/audit_log", params={"action": "retention.removed"}).json()["data"]]


def shown(api: TestClient, job: str, part: str) -> list[Any]:
    found: list[Any] = api.get(f"/v1/compile_jobs/{job}/{part}").json()["data"]
    return found


def code(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


class TestTraces:
    def test_go_when_no_open_job_may_take_them_and_stay_in_the_usage(self, house: House, operator: TestClient) -> None:
        first = compiled(house).id
        used = operator.get("/v1/usage").json()
        assert used["rollouts"] > 9
        keep(operator, keep_traces_days=2)
        carry_out()
        assert removed(operator) == [], "they are of today"
        age_ids("traces")
        carry_out()
        assert removed(operator) == [], "they are of today by the database's clock"
        age("traces")
        starting = house.submit(rows(9), holdout={"n": 3}, smoke_test=None)
        carry_out()
        assert removed(operator) == [], "it is not known yet what that job takes"
        house.run(starting, until=lambda job: job.plan is not None)
        carry_out()
        assert removed(operator) == [], "that job runs the same program"
        with unit_of_work() as s:
            service.cancel(s, house.project_id, starting)
        house.run(starting)
        waits = house.submit(rows(9), holdout={"n": 3}, rollouts={"stored_only": True}, auto_start=False)
        carry_out()
        assert removed(operator) == [], "that job will take nothing else"
        with unit_of_work() as s:
            service.cancel(s, house.project_id, waits)
        carry_out()
        assert removed(operator) == [{"traces": used["rollouts"]}]
        left = shown(operator, first, "traces")
        assert {(rollout["status"], str(rollout["calls"]), rollout["error"]) for rollout in left} == {("ok", "[]", None)}
        now = operator.get("/v1/usage").json()
        assert (rollouts(operator), now["calls"], now["teacher_usd"]) == (used["rollouts"], used["calls"], used["teacher_usd"])
        assert code(operator.post(f"/v1/compile_jobs/{first}/refilter", json={"prompt_adapter": "json"})) == (409, "job_erased")
        asked = len(house.teacher.calls)
        compiled(house)
        assert len(house.teacher.calls) > asked

    def test_go_some_at_a_time_so_that_jobs_can_be_made_meanwhile(self, house: House, operator: TestClient) -> None:
        keep(operator, keep_traces_days=2)
        execute(
            """
            INSERT INTO traces (project_id, digest, id, status, program_digest, lms_digest, inputs_digest, prompt_hash, rollout, body,
                                calls, prompt_tokens, completion_tokens, seconds)
            SELECT :project_id, 'v1:' || n, 'trace-06h3k' || lpad(n::text, 21, '0'), 'ok', 'p', 'l', 'i', 'h', 0, '{}', 1, 1, 1, 1
              FROM generate_series(1, 600) n""",
            project_id=house.project_id,
        )
        age("traces")
        waits = house.submit(rows(9), holdout={"n": 3}, smoke_test=None, auto_start=False)
        stopped = threading.Event()
        stopped.set()
        retention.carry_out(0, stopped)
        (first,) = removed(operator)
        assert 0 < first["traces"] < 600, "it stops between two locks of the project's jobs"
        with ThreadPoolExecutor(1) as other:
            with unit_of_work() as s:
                quotas.hold_jobs(s, house.project_id)
                ended = other.submit(carry_out)
                while not ended.done() and not waits_for_a_lock():
                    pass
                service.start(s, house.project_id, waits)
            ended.result()
        assert removed(operator) == [first], "it was started before the lock was had"


class TestJobs:
    def test_events_go_but_for_the_end(self, house: House, operator: TestClient) -> None:
        job = compiled(house).id
        keep(operator, keep_events_days=2)
        carry_out()
        assert len(shown(operator, job, "events")) > 3
        age_jobs()
        number = len(shown(operator, job, "events"))
        carry_out()
        assert [event["type"] for event in shown(operator, job, "events")] == ["done"]
        assert removed(operator) == [{"events": number - 1}]
        assert len(shown(operator, job, "traces")) > 9
        carry_out()
        assert len(removed(operator)) == 1

    def test_details_go_and_its_model_answers_on(self, house: House, operator: TestClient) -> None:
        job = compiled(house, program_name="desk").id
        artifact = operator.get(f"/v1/compile_jobs/{job}").json()["artifact"]["id"]
        assert operator.put("/v1/aliases/desk@prod", json={"artifact": artifact}).status_code == 200
        keep(operator, keep_job_details_days=2)
        waiting = house.submit(rows(9), holdout={"n": 3}, smoke_test=None)
        for named in (job, waiting):
            made = operator.post("/v1/datasets", json={"rows": rows(1), "metadata": {"of": named}}, headers={"Idempotency-Key": named})
            assert made.status_code == 201
        age_jobs()
        carry_out()
        with unit_of_work() as s:
            assert s.scalars(text("SELECT key FROM idempotency_keys")).all() == [waiting], "no stored answer names the job"
        made = operator.post("/v1/datasets", json={"rows": rows(1), "metadata": {"of": job}}, headers={"Idempotency-Key": "later"})
        carry_out()
        with unit_of_work() as s:
            assert "later" in s.scalars(text("SELECT key FROM idempotency_keys")).all(), "it repeats nothing of what was erased"
        assert removed(operator) == [{"job_details": 1}]
        assert operator.get(f"/v1/compile_jobs/{job}").json()["erased_at"] is not None
        assert shown(operator, job, "traces") == shown(operator, job, "training_files") == []
        assert code(operator.post(f"/v1/compile_jobs/{job}/refilter", json={"prompt_adapter": "json"})) == (409, "job_erased")
        erasing.carry_out(house.store, threading.Event())
        collecting.collect(house.store, 0, 0, threading.Event())
        files = operator.get(f"/v1/artifacts/{artifact}").json()["files"]
        for file in files:
            assert operator.get(f"/v1/artifacts/{artifact}/files/{file['path']}").status_code == 200, file
        assert house.host.models()
        beats = house.submit(rows(9), holdout={"n": 3}, program_name="desk", evaluate={"incumbent": "desk@prod"})
        with unit_of_work() as s:
            incumbent = contexts.load(s, beats).incumbent
            service.cancel(s, house.project_id, beats)
        assert incumbent is not None
        assert set(incumbent.answer_tokens) == set(incumbent.lms), "its answers are bounded as they were"
        house.host.unload(next(iter(house.host.models())))
        house.agent.tick()
        assert house.host.models(), "its weights and the prompts that it is tried on are there"
        house.succeed(waiting)


class TestArtifacts:
    def test_go_with_their_models_when_no_alias_has_pointed_at_them_lately(self, house: House, operator: TestClient) -> None:
        first, second = compiled(house, program_name="desk").id, compiled(house, program_name="desk").id
        old, new = (operator.get(f"/v1/compile_jobs/{job}").json()["artifact"]["id"] for job in (first, second))
        keep(operator, keep_artifacts_days=2)
        for artifact in (old, new):
            assert operator.put("/v1/aliases/desk@prod", json={"artifact": artifact}).status_code == 200
        execute("UPDATE artifacts SET created_at = created_at - interval '3 days'")
        carry_out()
        assert removed(operator) == [], "the one may be gone back to"
        execute("UPDATE alias_moves SET moved_at = moved_at - interval '3 days'")
        carry_out()
        assert removed(operator) == [{"artifacts": 1}], "the other has the same model: an equal training"
        assert operator.get(f"/v1/artifacts/{old}").status_code == 404
        assert operator.get(f"/v1/artifacts/{new}").status_code == 200
        assert house.host.models()
        assert operator.delete("/v1/aliases/desk@prod").status_code == 200
        execute("UPDATE alias_moves SET moved_at = moved_at - interval '3 days'")
        carry_out()
        assert removed(operator)[0] == {"artifacts": 1, "models": 1}, "the last that has it takes it along"
        house.agent.tick()
        assert house.host.models() == frozenset()


class TestTextThatPostgresqlCannotRead:
    def test_a_plan_with_nul_is_kept_and_erased_as_any_other(self, house: House, operator: TestClient) -> None:
        program = copy.deepcopy(SUPPORT)
        program["predictors"][0]["signature"]["fields"].insert(
            1, field_of("tone", "input", {"type": "string", "enum": ["a\0b", "c\\u0000"]})
        )
        program["steps"][0]["args"]["tone"] = {"from": "input.tone"}
        job = house.submit([{**row, "tone": "c\\u0000"} for row in rows(9)], program, holdout={"n": 3}, smoke_test=None, num_threads=4)
        plan = house.run(job, until=lambda job: job.plan is not None).plan
        assert plan is not None
        assert [sample["tone"] for sample in plan["samples"]] == ["a\0b", "c\\u0000"]
        keep(operator, keep_traces_days=2)
        age("traces")
        carry_out()
        assert removed(operator) == [], "the job runs this program"
        house.succeed(job)
        assert collecting.collect(house.store, 0, 0, threading.Event()) is not None
        assert house.store.exists(plan["split"])
        execute(
            "UPDATE job_steps SET status = 'failed', error = CAST(:error AS json) WHERE name = 'train'",
            error='{"code": "x", "message": "\\u0000\\ud800"}',
        )
        assert operator.delete(f"/v1/compile_jobs/{job}", params={"cascade": "artifacts"}).status_code == 200
        assert erasing.carry_out(house.store, threading.Event()) == 1
        assert not house.store.exists(plan["split"])


class TestFaults:
    def test_one_project_that_fails_does_not_change_the_pace_of_the_others(self, house: House, operator: TestClient) -> None:
        operator.post("/v1/projects", json={"name": "support"})
        operator.patch("/v1/projects/support", json={"keep_audit_log_days": 2})
        keep(operator, keep_traces_days=2)
        house.submit(rows(9), holdout={"n": 3}, smoke_test=None)
        execute("""UPDATE jobs SET plan = '{"prompt_hashes": []}'""")

        def last_removal() -> Any:
            retention.carry_out(3600, threading.Event())
            (entry,) = operator.get("/v1/audit_log", params={"project": "support"}).json()["data"]
            age("audit_log")
            return entry["action"], entry["id"][8:]

        age("audit_log")
        first = last_removal()
        assert first[0] == "retention.removed"
        assert last_removal() == first, "it is old, and stays: the period is not over"
        execute("UPDATE server_meta SET value = CAST(value AS timestamptz) - interval '1 hour' WHERE key = 'retained_at'")
        assert last_removal()[1] != first[1]


class TestAuditLog:
    def test_old_entries_go_of_this_project_alone(self, house: House, operator: TestClient) -> None:
        operator.post("/v1/projects", json={"name": "support"})
        keep(operator, keep_audit_log_days=2)
        operator.patch("/v1/projects/support", json={"keep_audit_log_days": 0})
        number = len(operator.get("/v1/audit_log").json()["data"])
        age_ids("audit_log")
        carry_out()
        assert len(operator.get("/v1/audit_log").json()["data"]) == number, "they are of today by the database's clock"
        age("audit_log")
        carry_out()
        assert [(entry["action"], entry["data"]) for entry in operator.get("/v1/audit_log").json()["data"]] == [
            ("retention.removed", {"audit_entries": number})
        ]
        assert len(operator.get("/v1/audit_log", params={"project": "support"}).json()["data"]) == 2

    def test_a_round_that_was_stopped_is_gone_on_with_and_a_whole_one_waits_for_the_next_period(
        self, house: House, operator: TestClient
    ) -> None:
        def aged() -> int:
            age("audit_log")
            return len(operator.get("/v1/audit_log").json()["data"])

        keep(operator, keep_audit_log_days=2)
        going, stopped = threading.Event(), threading.Event()
        stopped.set()
        for stopping in (stopped, going):
            assert aged() > 0
            retention.carry_out(3600, stopping)
            assert len(removed(operator)) == 1, "the entry of this round alone is left"
        left = aged()
        retention.carry_out(3600, going)
        assert len(operator.get("/v1/audit_log").json()["data"]) == left
