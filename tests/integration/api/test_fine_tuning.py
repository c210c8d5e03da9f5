"""Fine-tuning jobs over HTTP: what is taken, what is refused by name, and how a job looks while it stands."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from distill.catalog import connections
from distill.db import unit_of_work
from distill.jobs import claims, events, pausing
from distill.jobs.claims import WorkerInfo
from distill.jobs.models import Checkpoint, FineTuneJob
from distill.jobs.status import JobKind
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens
from tests.integration.api.test_files import PURPOSE, sent
from workers.tasks import CAPABILITIES

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def file(api: TestClient) -> str:
    return str(api.post("/v1/files", files=sent(), data=PURPOSE).json()["id"])


def ask(api: TestClient, file: str, **more: Any) -> Any:
    return api.post(JOBS, json={"model": "tiny", "training_file": file, **more})


class TestCreate:
    def test_the_smallest_request(self, api: TestClient, file: str) -> None:
        reply = ask(api, file)
        assert reply.status_code == 200, reply.text
        job = reply.json()
        assert reply.headers["location"] == f"{JOBS}/{job['id']}"
        assert (job["object"], job["status"], job["model"], job["training_file"]) == ("fine_tuning.job", "validating_files", "tiny", file)
        assert (job["fine_tuned_model"], job["validation_file"], job["error"], job["seed"]) == (None, None, None, 0)
        assert api.get(f"{JOBS}/{job['id']}").json() == job
        assert api.get(JOBS).json()["data"] == [job]

    @pytest.mark.parametrize("model", ["tiny", "house/tiny", "openai/tiny", "openai/house/tiny"])
    def test_names_of_the_base_model(self, api: TestClient, file: str, model: str) -> None:
        assert ask(api, file, model=model).json()["model"] == "tiny"

    def test_a_connection_called_like_the_prefix_of_openais_clients(
        self, api: TestClient, file: str, monkeypatch: pytest.MonkeyPatch, lm_url: str
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_CONNECTIONS__OPENAI__BASE_URL", lm_url)
        get_settings.cache_clear()
        with unit_of_work() as s:
            connections.sync(s, get_settings())
        assert ask(api, file, model="openai/tiny").json()["model"] == "tiny"
        assert ask(api, file, model="openai/gpt-9").json()["error"]["code"] == "not_trainable"

    def test_a_folder_is_taken_from_the_operator_alone(self, api: TestClient, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"BASE_URL": "http://any.test/v1", "TRAINER": "local", "SUPPORTS": '["lora"]'}.items():
            monkeypatch.setenv(f"STILLHOUSE_CONNECTIONS__ANY__{name}", value)
        get_settings.cache_clear()
        with unit_of_work() as s:
            connections.sync(s, get_settings())
        error = ask(api, file, model="any//tmp/home").json()["error"]
        assert (error["code"], error["param"]) == ("unknown_base_model", "model")

    @pytest.mark.parametrize(
        "more",
        [
            {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}}},
            {
                "hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}},
            },
        ],
    )
    def test_both_places_of_hyperparameters(self, api: TestClient, file: str, more: dict[str, Any]) -> None:
        job = ask(api, file, **more).json()
        assert (job["hyperparameters"]["n_epochs"], job["hyperparameters"]["learning_rate_multiplier"]) == (2, 0.5)
        assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": job["hyperparameters"]}}

    def test_the_rest_of_the_body(self, api: TestClient, file: str) -> None:
        job = ask(api, file, suffix="my-model", seed=7, metadata={"a": "b"}, validation_file=file, integrations=[]).json()
        assert (job["seed"], job["metadata"], job["validation_file"], job["integrations"]) == (7, {"a": "b"}, file, [])

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
            ({"method": {"type": "dpo", "dpo": {}}}, "method"),
            ({"method": {"type": "supervised", "reinforcement": {}}}, "method"),
            ({"suffix": "no spaces"}, "suffix"),
            ({"seed": -1}, "seed"),
            ({"hyperparameters": {"n_epoch": 1}}, "hyperparameters.n_epoch"),
            ({"hyperparameters": {"use_dora": True}}, "hyperparameters.use_dora"),
            ({"hyperparameters": {"full_finetuning": True}}, "hyperparameters.full_finetuning"),
            ({"hyperparameters": {"scheduler": "polynomial"}}, "hyperparameters.scheduler"),
            ({"n_epochs": 1}, "n_epochs"),
            ({"training_file": "file-nobody"}, "training_file"),
            ({"validation_file": "file-nobody"}, "validation_file"),
            ({"model": "big/big-model"}, "model"),
        ],
    )
    def test_refused_by_name_with_400(self, api: TestClient, file: str, more: dict[str, Any], param: str) -> None:
        reply = ask(api, file, **more)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
        assert api.get(JOBS).json()["data"] == []

    def test_two_places_that_differ(self, api: TestClient, file: str) -> None:
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
        reply = ask(api, file, hyperparameters={"n_epochs": 2}, method=method)
        assert (reply.status_code, "differ" in reply.json()["error"]["message"]) == (400, True)

    @pytest.mark.parametrize("model", ["gpt-4o", "sh-x-12345678", "ft:tiny:::x"])
    def test_a_model_that_is_not_there(self, api: TestClient, file: str, model: str) -> None:
        reply = ask(api, file, model=model)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert "tiny" in reply.json()["error"]["message"]

    def test_the_same_key_makes_no_second_job(self, api: TestClient, file: str) -> None:
        body, key = {"model": "tiny", "training_file": file}, {"Idempotency-Key": "once"}
        first, again = (api.post(JOBS, json=body, headers=key).json() for _ in range(2))
        assert again == first
        assert len(api.get(JOBS).json()["data"]) == 1

    def test_another_projects_file(self, api: TestClient, tokens: Tokens, file: str) -> None:
        api.headers["Authorization"] = f"Bearer {tokens.other}"
        assert ask(api, file).json()["error"]["param"] == "training_file"


class TestStatus:
    def test_openais_words_alone(self, api: TestClient, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        with unit_of_work() as s:
            held = claims.claim(s, "rollouts", WorkerInfo("tester", CAPABILITIES))
        assert held is not None
        assert api.get(f"{JOBS}/{job_id}").json()["status"] == "validating_files"
        with unit_of_work() as s:
            claims.release(s, held)
            pausing.pause(s, held.project_id, job_id, JobKind.FINE_TUNE)
        assert api.get(f"{JOBS}/{job_id}").json()["status"] == "running"

    def test_pause_resume_cancel(self, api: TestClient, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        assert api.post(f"{JOBS}/{job_id}/pause").json()["status"] == "running"
        assert api.post(f"{JOBS}/{job_id}/resume").json()["status"] == "validating_files"
        cancelled = api.post(f"{JOBS}/{job_id}/cancel").json()
        assert (cancelled["status"], cancelled["finished_at"] is not None) == ("cancelled", True)
        assert api.post(f"{JOBS}/{job_id}/pause").status_code == 409

    def test_events_newest_first(self, api: TestClient, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        api.post(f"{JOBS}/{job_id}/cancel")
        first = api.get(f"{JOBS}/{job_id}/events", params={"limit": 1}).json()
        assert (first["data"][0]["message"], first["has_more"]) == ("The job is cancelled", True)
        rest = api.get(f"{JOBS}/{job_id}/events", params={"after": first["last_id"]}).json()
        assert [event["message"] for event in rest["data"]] == ["Cancelled", "The job is queued"]

    def test_no_checkpoint_before_there_is_a_model(self, api: TestClient, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        assert api.get(f"{JOBS}/{job_id}/checkpoints").json()["data"] == []

    def test_checkpoints_of_a_job_that_trains_have_step_and_losses_and_no_name_to_ask(
        self, api: TestClient, address: str, tokens: Tokens, file: str
    ) -> None:
        job_id = ask(api, file).json()["id"]
        with unit_of_work() as s:
            for step, fence in ((20, 1), (40, 2)):
                s.add(Checkpoint(fine_tune_job_id=job_id, step=step, fence=fence, files={}))
            for point in ({"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5, "validation_loss": 1.75}, {"step": 30, "loss": 1.0}):
                events.append(s, job_id, "train.curve", "Training", {"fine_tuning_job": job_id, **point})
        with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.all, max_retries=0) as client:
            found = list(client.fine_tuning.jobs.checkpoints.list(job_id))
        assert [each.step_number for each in found] == [40, 20]
        assert [(each.metrics.train_loss, each.metrics.valid_loss) for each in found] == [(1.0, 1.75), (1.5, 1.75)]
        assert [(each.object, each.fine_tuning_job_id) for each in found] == [("fine_tuning.job.checkpoint", job_id)] * 2
        assert {each.fine_tuned_model_checkpoint for each in found} == {""}
        assert len({each.id for each in found}) == 2

    def test_a_trained_one_shows_the_options_that_were_chosen(self, api: TestClient, file: str) -> None:
        """Those of the trainer in place of `auto`; before that what was asked."""
        job_id = ask(api, file, hyperparameters={"lora_r": 4}).json()["id"]
        assert api.get(f"{JOBS}/{job_id}").json()["hyperparameters"]["n_epochs"] == "auto"
        with unit_of_work() as s:
            row = s.get_one(FineTuneJob, job_id)
            row.result = {"options": {"n_epochs": 12, "lora_r": 4, "scheduler": "linear", "warmup_steps": None}}
        shown = api.get(f"{JOBS}/{job_id}").json()
        found = shown["hyperparameters"]
        assert (found["n_epochs"], found["lora_r"], found["scheduler"]) == (12, 4, "linear")
        assert "warmup_steps" not in found
        assert shown["method"]["supervised"]["hyperparameters"] == found

    def test_it_is_no_compile_job(self, api: TestClient, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        assert api.get("/v1/compile_jobs").json()["data"] == []
        for verb, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/retry"), ("GET", "/cost")):
            assert api.request(verb, f"/v1/compile_jobs/{job_id}{path}").status_code == 404, path

    def test_another_project_sees_nothing(self, api: TestClient, tokens: Tokens, file: str) -> None:
        job_id = ask(api, file).json()["id"]
        stranger = {"Authorization": f"Bearer {tokens.other}"}
        for verb, path in (("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/cancel")):
            assert api.request(verb, f"{JOBS}/{job_id}{path}", headers=stranger).status_code == 404
