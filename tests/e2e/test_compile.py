"""A user posts a program over HTTP and gets back one that answers with its own fine-tuned models."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import stillhouse
from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import ANSWER, CATEGORY, LMS, PROGRAM, rows
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def job(client: Stillhouse, teacher: ScriptedLM) -> Any:
    made = client.compile_jobs.create(
        program=PROGRAM,
        program_name="support",
        trainset=rows(24),
        valset=rows(8, start=100),
        metric={"type": "exact_match", "fields": ["category"]},
        lms=LMS,
        multitask=False,
        num_threads=4,
    )
    return client.compile_jobs.wait(made.id, timeout=400)


class TestCompile:
    def test_succeeds_with_one_model_for_each_lm_and_predictor(self, job: Any) -> None:
        assert job.status == "succeeded", job.error
        children = {child.predictor: child for child in job.fine_tuning_jobs}
        assert set(children) == {"classify", "reply"}
        assert {child.rows for child in children.values()} == {24}
        assert len({child.fine_tuned_model for child in children.values()}) == 2

    def test_the_report_says_that_it_is_better(self, job: Any) -> None:
        evaluation = job.evaluation
        assert evaluation["teacher"]["score"] == 1.0
        assert evaluation["baseline"]["score"] == 0.0
        assert evaluation["compiled"]["score"] == 1.0
        assert evaluation["delta"]["verdict"] == "better"

    def test_the_loaded_program_asks_each_predictors_own_model(self, job: Any, client: Stillhouse, server: Stack, tmp_path: Path) -> None:
        program = stillhouse.load(job.artifact.id, client=client, cache_dir=tmp_path)
        models = {child.predictor: child.fine_tuned_model for child in job.fine_tuning_jobs}
        assert {name: predictor.lm.model for name, predictor in program.named_predictors()} == {
            name: f"tune/{model}" for name, model in models.items()
        }
        # Each adapter learned to say one thing: the other's answer would not even parse.
        answer = program(message="Message 101")
        assert (answer.category, answer.answer) == (CATEGORY, ANSWER)

    def test_the_gateway_answers_with_the_model_that_is_named(self, job: Any, client: Stillhouse, server: Stack, tiny_model: Path) -> None:
        tuned = {child.predictor: child.fine_tuned_model for child in job.fine_tuning_jobs}
        base = f"house/local/{tiny_model.name}"
        assert {*tuned.values(), base} <= {model.id for model in client.models.list()}
        question = client.programs.render(job.program, {"message": "Message 103"}).calls[0]
        said = {model: _text(_chat(server, model, question["messages"])) for model in (*tuned.values(), base)}
        # To the same question each says its own; to its own, what it was taught.
        assert len(set(said.values())) == 3
        assert f"[[ ## category ## ]]\n{CATEGORY}" in said[tuned[question["predictor"]]]

    def test_the_gateway_has_no_answer_for_a_model_that_is_not_there(self, job: Any, server: Stack) -> None:
        """Neither the base model's nor another tuned model's."""
        unknown = job.fine_tuning_jobs[0].fine_tuned_model[:-8] + "00000000"
        reply = _chat(server, unknown, [{"role": "user", "content": "Message 103"}])
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")

    def test_the_artifact_can_be_called_over_http(self, job: Any, client: Stillhouse) -> None:
        reply = client.artifacts.call(job.artifact.id, {"message": "Message 102"})
        assert json.loads(reply.model_dump_json())["outputs"]["answer"] == ANSWER


def test_models_answer_while_another_is_trained(server: Stack, tiny_model: Path) -> None:
    """On a machine whose memory holds LM host and trainer both."""
    base = f"local/{tiny_model.name}"
    with _api(server) as api:
        line = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Billing."}]}
        file = api.post("/files", data={"purpose": "fine-tune"}, files={"file": ("train.jsonl", json.dumps(line) + "\n")}).json()["id"]
        body = {"model": base, "training_file": file, "hyperparameters": {"n_epochs": 100_000}}
        training = f"/fine_tuning/jobs/{api.post('/fine_tuning/jobs', json=body).json()['id']}"

        def has_begun() -> bool:
            events = api.get(f"{training}/events").json()["data"]
            return any(event["message"].startswith("Training step 1") for event in events)

        wait_until(has_begun, "the training does not begin")
        reply = _chat(server, base, [{"role": "user", "content": "Who?"}])
        status = api.get(f"/models/house/{base}").json()["status"]
        ended = api.post(f"{training}/cancel").json()["finished_at"]
    assert (reply.status_code, status, ended) == (200, "loaded", None), reply.text


def _api(server: Stack) -> httpx.Client:
    return httpx.Client(base_url=f"{server.base_url}/v1", headers={"Authorization": f"Bearer {server.api_key}"}, timeout=60)


def _chat(server: Stack, model: str, messages: list[dict[str, Any]]) -> httpx.Response:
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 40}
    headers = {"Authorization": f"Bearer {server.api_key}", "stillhouse-prompt-check": "off"}
    return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def _text(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])
