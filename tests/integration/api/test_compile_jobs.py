"""Creating, reading and stopping compile jobs over HTTP."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from starlette.testclient import TestClient

from distill.db import engine, unit_of_work
from distill.errors import CancelRequested
from distill.jobs import claims
from distill.jobs.claims import WorkerInfo
from tests.integration.api.conftest import ROWS, Tokens, job_body
from tests.integration.api.finished import finish


class TestIfChanged:
    SAME = "/v1/compile_jobs?if_changed=true"

    def test_a_job_with_its_artifact_stands_until_something_is_other(self, api: TestClient) -> None:
        body = job_body(program_name="router")
        finished = finish(api)
        again = api.post(self.SAME, json={**body, "name": "week 2", "metadata": {"week": "2"}})
        assert (again.status_code, again.json()["id"], again.json()["artifact"]["id"]) == (200, finished.job_id, finished.artifact_id)
        grown = api.post(self.SAME, json={**body, "trainset": [*ROWS, {"message": "It is slow", "category": "technical"}]})
        assert grown.status_code == 201
        assert api.post("/v1/compile_jobs", json=body).status_code == 201

    def test_a_job_under_way_is_joined_and_a_cancelled_one_is_not(self, api: TestClient) -> None:
        first = api.post(self.SAME, json=job_body()).json()["id"]
        assert (api.post(self.SAME, json=job_body()).json()["id"], len(api.get("/v1/compile_jobs").json()["data"])) == (first, 1)
        api.post(f"/v1/compile_jobs/{first}/cancel")
        assert api.post(self.SAME, json=job_body()).status_code == 201

    def test_another_projects_job_is_no_reason(self, api: TestClient, tokens: Tokens) -> None:
        api.post(self.SAME, json=job_body())
        assert api.post(self.SAME, json=job_body(), headers={"Authorization": f"Bearer {tokens.other}"}).status_code == 201

    def test_faults_are_told_all_the_same(self, api: TestClient) -> None:
        api.post(self.SAME, json=job_body())
        assert api.post(self.SAME, json=job_body(rollouts={"n": 0})).json()["error"]["param"] == "rollouts.n"


class TestCreate:
    def test_smallest_request_is_queued_with_defaults_filled_in(self, api: TestClient) -> None:
        reply = api.post("/v1/compile_jobs", json=job_body(metadata={"git_sha": "9f1c2ab"}))
        assert reply.status_code == 201, reply.text
        job = reply.json()
        assert reply.headers["location"] == f"/v1/compile_jobs/{job['id']}"
        assert job["status"] == "queued"
        assert job["step"] == "validate"
        assert [step["name"] for step in job["steps"]] == ["validate"]
        assert job["lms"]["student"]["connection"] == "house"
        assert job["lms"]["student"]["model"] == "tiny"
        assert "connection_id" not in job["lms"]["student"]
        assert job["teacher"][0]["lms"]["student"]["connection"] == "big"
        assert job["metadata"] == {"git_sha": "9f1c2ab"}
        assert job["rollouts"]["n"] == 1

    def test_named_parts_give_the_same_job(self, api: TestClient) -> None:
        inline = api.post("/v1/compile_jobs", json=job_body()).json()
        named = api.post("/v1/compile_jobs", json=job_body(program=inline["program"], trainset=inline["trainset"])).json()
        assert named["spec_digest"] == inline["spec_digest"]

    def test_null_in_an_lm_is_as_if_it_were_left_out(self, api: TestClient) -> None:
        nulls = dict.fromkeys(("connection", "model", "base_model", "trainer", "native", "constrain", "temperature"))
        made = [api.post("/v1/compile_jobs", json=job_body(lms={"student": lm})).json() for lm in ({}, nulls)]
        assert made[0]["lms"] == made[1]["lms"]
        assert made[0]["spec_digest"] == made[1]["spec_digest"]

    def test_what_was_asked_for_is_returned(self, api: TestClient) -> None:
        asked = {
            "name": "weekly",
            "program_name": "router",
            "lms": {"student": {"connection": "house", "temperature": 0.0, "max_tokens": 64, "constrain": True}},
            "teacher": {"lms": {"student": {"connection": "big", "temperature": 1.0}}},
            "rollouts": {"n": 4, "temperature": 0.7},
            "filter": {"min_score": 0.5, "top_k": 1},
            "train_options": {"n_epochs": 3, "learning_rate": "auto", "early_stopping": {"patience": 2}},
            "evaluate": {"roles": ["baseline", "compiled"]},
            "budget": {"max_calls": 4000},
            "num_threads": 3,
            "multitask": False,
            "seed": 7,
        }
        reply = api.post("/v1/compile_jobs", json=job_body(**asked))
        assert reply.status_code == 201, reply.text
        job = reply.json()
        assert (job["name"], job["program_name"], job["num_threads"], job["seed"]) == ("weekly", "router", 3, 7)
        assert job["lms"]["student"]["constrain"] is True
        assert job["teacher"][0]["lms"]["student"]["temperature"] == 1.0
        assert job["rollouts"] == {
            "n": 4,
            "temperature": 0.7,
            "stop_on_pass": True,
            "stored_only": False,
            "retry_failed": False,
            "where": "server",
        }
        assert job["train_options"]["n_epochs"] == 3
        assert job["train_options"]["early_stopping"]["patience"] == 2
        assert job["budget"] == {"max_calls": 4000}

    def test_created_waits_for_start(self, api: TestClient) -> None:
        job = api.post("/v1/compile_jobs", json=job_body(auto_start=False)).json()
        assert job["status"] == "created"
        started = api.post(f"/v1/compile_jobs/{job['id']}/start").json()
        assert started["status"] == "queued"
        assert api.post(f"/v1/compile_jobs/{job['id']}/start").status_code == 409


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once_and_asking_again_is_no_error(self, api: TestClient) -> None:
        job = api.post("/v1/compile_jobs", json=job_body()).json()
        path = f"/v1/compile_jobs/{job['id']}/cancel"
        assert api.post(path).json()["status"] == "cancelled"
        assert api.post(path).json()["status"] == "cancelled"
        assert api.get(f"/v1/compile_jobs/{job['id']}").json()["queue"] is None

    def test_of_a_running_job_nothing_is_published_any_more_and_it_ends_with_its_last_holder(self, api: TestClient) -> None:
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        with unit_of_work() as s:
            held = claims.claim(s, "rollouts", WorkerInfo("tester", frozenset({"runtime:default"})))
        assert held is not None
        assert api.post(f"/v1/compile_jobs/{job_id}/cancel").json()["status"] == "running"
        with unit_of_work() as s:
            assert claims.beat(s, held).cancel
        with pytest.raises(CancelRequested), unit_of_work() as s:
            claims.publish(s, held, result={"late": True})
        with unit_of_work() as s:
            claims.release(s, held)
        job = api.get(f"/v1/compile_jobs/{job_id}").json()
        assert (job["status"], [step["status"] for step in job["steps"]]) == ("cancelled", ["cancelled"])


class TestUpdate:
    def test_fields_that_are_left_out_stay(self, api: TestClient) -> None:
        job = api.post("/v1/compile_jobs", json=job_body(name="old", metadata={"a": "1"})).json()
        changed = api.patch(f"/v1/compile_jobs/{job['id']}", json={"name": "new"}).json()
        assert (changed["name"], changed["metadata"]) == ("new", {"a": "1"})
        changed = api.patch(f"/v1/compile_jobs/{job['id']}", json={"metadata": {"b": "2"}}).json()
        assert (changed["name"], changed["metadata"]) == ("new", {"b": "2"})

    def test_priority_moves_a_job_up_and_down_the_line(self, api: TestClient) -> None:
        first, second = (api.post("/v1/compile_jobs", json=job_body(seed=seed)).json()["id"] for seed in range(2))
        urgent = api.post("/v1/compile_jobs", json=job_body(priority=10)).json()

        def line() -> list[int]:
            return [api.get(f"/v1/compile_jobs/{each}").json()["queue"]["position"] for each in (urgent["id"], first, second)]

        assert (urgent["priority"], line()) == (10, [1, 2, 3])
        assert api.patch(f"/v1/compile_jobs/{second}", json={"priority": 20}).json()["priority"] == 20
        assert line() == [2, 3, 1]
        assert api.patch(f"/v1/compile_jobs/{second}", json={"name": "same"}).json()["priority"] == 20
        assert api.patch(f"/v1/compile_jobs/{second}", json={"priority": 101}).status_code == 422


class TestList:
    def test_pages_do_not_shift_while_jobs_are_added(self, api: TestClient) -> None:
        made = [api.post("/v1/compile_jobs", json=job_body(seed=seed)).json()["id"] for seed in range(5)]
        first = api.get("/v1/compile_jobs?limit=2").json()
        assert [job["id"] for job in first["data"]] == [made[4], made[3]]
        assert (first["has_more"], first["last_id"]) == (True, made[3])
        api.post("/v1/compile_jobs", json=job_body(seed=99))
        second = api.get("/v1/compile_jobs", params={"limit": 10, "after": first["last_id"]}).json()
        assert [job["id"] for job in second["data"]] == [made[2], made[1], made[0]]
        assert second["has_more"] is False

    def test_filters(self, api: TestClient) -> None:
        one = api.post("/v1/compile_jobs", json=job_body(program_name="a", metadata={"sha": "1"})).json()
        two = api.post("/v1/compile_jobs", json=job_body(program_name="b", metadata={"sha": "2"})).json()
        api.post(f"/v1/compile_jobs/{two['id']}/cancel")

        def ids(**params: str | int) -> list[str]:
            return [job["id"] for job in api.get("/v1/compile_jobs", params=params).json()["data"]]

        assert ids(status="cancelled") == [two["id"]]
        assert ids(program="a") == [one["id"]]
        assert ids(**{"metadata[sha]": "2"}) == [two["id"]]
        assert ids(created_by="me", order="asc") == [one["id"], two["id"]]
        assert ids(created_after=2**33) == []
        assert ids(step="validate", project="support", order="asc") == [one["id"], two["id"]]
        refused = api.get("/v1/compile_jobs?project=other")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "wrong_project")

    @pytest.mark.parametrize(("name", "word", "known"), [("status", "runing", "running"), ("step", "traning", "train")])
    def test_a_word_that_no_job_has_is_refused_with_those_that_there_are(self, api: TestClient, name: str, word: str, known: str) -> None:
        refused = api.get("/v1/compile_jobs", params={name: word})
        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == name
        assert f"'{known}'" in refused.json()["error"]["message"]


class TestWait:
    def test_a_final_job_answers_at_once(self, api: TestClient) -> None:
        job = api.post("/v1/compile_jobs", json=job_body()).json()
        api.post(f"/v1/compile_jobs/{job['id']}/cancel")
        began = time.monotonic()
        assert api.get(f"/v1/compile_jobs/{job['id']}?wait=30").json()["status"] == "cancelled"
        assert time.monotonic() - began < 25

    def test_a_change_answers_before_the_time_is_over(self, address: str, tokens: Tokens) -> None:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {tokens.all}"}, timeout=60) as client:
            job = client.post("/v1/compile_jobs", json=job_body()).json()
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(client.get, f"/v1/compile_jobs/{job['id']}?wait=50")
                # The wait must be under way before the change, or it would find the job final.
                while client.get("/v1/me").status_code != 200 or not waiting.running():
                    continue
                began = time.monotonic()
                client.post(f"/v1/compile_jobs/{job['id']}/cancel")
                assert waiting.result().json()["status"] == "cancelled"
                assert time.monotonic() - began < 20

    def test_more_may_wait_than_there_are_connections_to_the_database(self, address: str, tokens: Tokens) -> None:
        async def go() -> list[httpx.Response]:
            headers, limits = {"Authorization": f"Bearer {tokens.all}"}, httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=address, headers=headers, timeout=100, limits=limits) as client:
                job = (await client.post("/v1/compile_jobs", json=job_body())).json()
                waiting = [asyncio.create_task(client.get(f"/v1/compile_jobs/{job['id']}?wait=60")) for _ in range(40)]
                for _ in range(40):  # sent after the others, and read by the same loop of the server
                    assert (await client.get("/v1/me")).status_code == 200
                while engine("api").pool.checkedout():  # type: ignore[attr-defined]  # a QueuePool
                    assert (await client.get("/v1/me")).status_code == 200
                assert not any(each.done() for each in waiting)
                await client.post(f"/v1/compile_jobs/{job['id']}/cancel")
                return list(await asyncio.gather(*waiting))

        assert [(reply.status_code, reply.json()["status"]) for reply in asyncio.run(go())] == [(200, "cancelled")] * 40


class TestParts:
    def test_a_new_job_has_none_yet(self, api: TestClient) -> None:
        job = api.post("/v1/compile_jobs", json=job_body()).json()
        for part in ("traces", "rejections", "training_files", "fine_tuning_jobs", "curves", "evaluations"):
            assert api.get(f"/v1/compile_jobs/{job['id']}/{part}").json()["data"] == [], part
        assert api.get(f"/v1/compile_jobs/{job['id']}/artifact").status_code == 404
        cost = api.get(f"/v1/compile_jobs/{job['id']}/cost").json()
        assert (cost["total_usd"], cost["calls"], cost["unknown"]) == (0, 0, [])
