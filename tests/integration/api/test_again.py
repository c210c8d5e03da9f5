"""Retry, refilter and logs over HTTP."""

from __future__ import annotations

from starlette.testclient import TestClient

from distill.catalog import connections
from distill.db import Session, unit_of_work
from distill.errors import JobFault
from distill.jobs import claims, events, repository, service, steps
from distill.jobs.claims import Claim, StepClosed, WorkerInfo
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import Step
from distill.settings import get_settings
from distill.storage import FolderStore
from tests.integration.api.conftest import job_body
from tests.integration.api.finished import finish

FAULT = JobFault("teacher_down", "The teacher was down.", "system", step="validate", retryable=True)


def failed(api: TestClient) -> str:
    """A job whose validate has failed."""
    job_id: str = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
    with unit_of_work() as s:
        claims.fail_job(s, job_id, FAULT)
    return job_id


def taken(queue: str) -> Claim:
    with unit_of_work() as s:
        held = claims.claim(s, queue, WorkerInfo("tester", frozenset({"runtime:default"})))
    assert held is not None
    return held


def with_failed_keys(api: TestClient) -> str:
    """A job whose validate has succeeded, and of whose two keys neither could be trained."""
    job_id: str = api.post("/v1/compile_jobs", json=job_body()).json()["id"]

    def open_train(s: Session, job: Job, _: StepClosed) -> None:
        house = connections.find(s, "house")
        assert house is not None
        new = [service.NewFineTuneJob(name, "", (name,), ("self",), house.id, "tiny", "local") for name in ("one", "two")]
        made = service.create_fine_tune_jobs(s, job, new)
        steps.open_step(s, job, Step.TRAIN, [steps.NewItem("train", fine_tune_job_id=key.id) for key in made])

    held = taken("rollouts")
    with unit_of_work() as s:
        claims.publish(s, held, on_closed=open_train)
    for _ in range(2):
        held = taken("train")
        with unit_of_work() as s:
            claims.fail(s, held, JobFault("no_luck", "It did not learn.", "system"))
    return job_id


class TestRetry:
    def test_of_two_failed_keys_the_named_one_alone_is_queued_and_what_came_before_stays(self, api: TestClient) -> None:
        job_id = with_failed_keys(api)
        chosen, other = (key["id"] for key in api.get(f"/v1/compile_jobs/{job_id}/fine_tuning_jobs").json()["data"])
        reply = api.post(f"/v1/compile_jobs/{job_id}/retry", json={"fine_tuning_job": chosen})
        assert reply.status_code == 200, reply.text
        keys = api.get(f"/v1/compile_jobs/{job_id}/fine_tuning_jobs").json()["data"]
        assert {key["id"]: key["status"] for key in keys} == {chosen: "queued", other: "failed"}
        assert {step["name"]: step["status"] for step in reply.json()["steps"]} == {"validate": "succeeded", "train": "queued"}
        assert taken("train").fine_tune_job_id == chosen

    def test_a_failed_job_is_queued_again_with_its_id_and_one_round_more(self, api: TestClient) -> None:
        job_id = failed(api)
        reply = api.post(f"/v1/compile_jobs/{job_id}/retry")
        assert reply.status_code == 200, reply.text
        job = reply.json()
        assert (job["id"], job["status"], job["step"], job["round"], job["error"]) == (job_id, "queued", "validate", 2, None)
        assert [step["status"] for step in job["steps"]] == ["queued"]

    def test_the_same_idempotency_key_retries_once(self, api: TestClient) -> None:
        job_id = failed(api)
        first, again = (api.post(f"/v1/compile_jobs/{job_id}/retry", headers={"Idempotency-Key": "r"}) for _ in range(2))
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"

    def test_a_job_that_has_not_failed_is_a_conflict(self, api: TestClient) -> None:
        job_id = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
        reply = api.post(f"/v1/compile_jobs/{job_id}/retry")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "wrong_status")

    def test_what_it_names_must_be_a_failed_fine_tune_job(self, api: TestClient) -> None:
        reply = api.post(f"/v1/compile_jobs/{failed(api)}/retry", json={"fine_tuning_job": "ftjob-nobody"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "fine_tuning_job")

    def test_an_unknown_job_is_not_found(self, api: TestClient) -> None:
        assert api.post("/v1/compile_jobs/cjob-nobody/retry").status_code == 404


class TestRefilter:
    def test_a_job_without_traces_is_a_conflict_and_an_unknown_word_names_the_nearest(self, api: TestClient) -> None:
        job_id = failed(api)
        reply = api.post(f"/v1/compile_jobs/{job_id}/refilter", json={"filter": {"min_score": 0.5}})
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "no_traces")
        reply = api.post(f"/v1/compile_jobs/{job_id}/refilter", json={"filter": {"minscore": 0.5}})
        assert reply.status_code == 422
        assert "min_score" in reply.json()["error"]["message"]
        assert api.post("/v1/compile_jobs/cjob-nobody/refilter", json={}).status_code == 404


class TestLogs:
    def test_each_fine_tune_job_has_its_own_by_lm_and_predictor(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        assert api.get(f"/v1/compile_jobs/{job_id}/logs").json()["data"] == []
        with unit_of_work() as s:
            (child,) = repository.fine_tune_jobs(s, job_id)
            child.log = FolderStore(get_settings().blob_root).put(b"loss 0.5\nloss 0.25\n")
        (log,) = api.get(f"/v1/compile_jobs/{job_id}/logs").json()["data"]
        assert (log["fine_tuning_job"], log["lm"], log["predictor"]) == (child.id, "student", "")
        assert (log["text"], log["truncated"]) == ("loss 0.5\nloss 0.25\n", False)
        (end,) = api.get(f"/v1/compile_jobs/{job_id}/logs?tail=1").json()["data"]
        assert (end["text"], end["truncated"]) == ("loss 0.25\n", True)
        assert api.get(f"/v1/compile_jobs/{job_id}/logs?tail=2").json()["data"] == [log]

    def test_while_it_trains_its_end_so_far_is_told(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        with unit_of_work() as s:
            (child,) = repository.fine_tune_jobs(s, job_id)
            child.log_tail = "loss 0.5\n"
        (log,) = api.get(f"/v1/compile_jobs/{job_id}/logs", params={"fine_tuning_job": child.id}).json()["data"]
        assert (log["text"], log["truncated"]) == ("loss 0.5\n", True)

    def test_another_jobs_fine_tune_job_is_not_found(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        assert api.get(f"/v1/compile_jobs/{job_id}/logs", params={"fine_tuning_job": "ftjob-nobody"}).status_code == 404

    def test_a_fine_tune_jobs_events_are_its_own_also_far_into_the_job(self, api: TestClient) -> None:
        job_id = finish(api).job_id
        with unit_of_work() as s:
            child: FineTuneJob = repository.fine_tune_jobs(s, job_id)[0]
            events.append(s, job_id, "train.curve", "mine", {"fine_tuning_job": child.id})
            for number in range(30):
                events.append(s, job_id, "train.curve", f"step {number}", {"fine_tuning_job": "ftjob-other"})
        told = api.get(f"/v1/fine_tuning/jobs/{child.id}/events").json()["data"]
        assert [event["message"] for event in told if event["type"] == "metrics"] == ["mine"]
