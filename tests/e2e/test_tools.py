"""A program whose LM calls tools natively: taught, trained, measured and served, with the embedded LM host as the student's."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stack.supervisor import Stack
from stillhouse import Stillhouse
from tests.e2e.lessons import TRAINING
from tests.support.installed import PACKAGE, make_runtime
from tests.support.scripted_lm import Answer, Ask, Says, ScriptedLM
from tests.support.tiny_model import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALL = {"name": "on_duty", "arguments": json.dumps({"team": "billing"})}
MODEL = "local/tools"


def teach(ask: Ask) -> Answer:
    assert [tool["function"]["name"] for tool in ask.body["tools"]] == ["on_duty"]
    return Says({"content": None, "tool_calls": [{"id": f"x{ask.n}", "type": "function", "function": CALL}]})


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"message": f"Message {i}", "team": "billing"} for i in range(start, start + n)]


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=teach) as lm:
        yield lm


@pytest.fixture(scope="module")
def server(teacher: ScriptedLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("tools")
    build_tiny_model(folder / "models" / "tools", tools=True)
    connections = {"teacher": {"base_url": teacher.url, "models": ["big"], "default_teacher": True, "supports": ["tools"]}}
    environment = {
        "STILLHOUSE_CONNECTIONS": json.dumps(connections),
        "STILLHOUSE_LMHOST__TOOLS": "true",
        "STILLHOUSE_REFERENCES": PACKAGE,
        "STILLHOUSE_RUNTIMES": json.dumps({"default": {"python": make_runtime(folder / "runtime")}}),
    }
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="stillhouse-e2e-") as home:
        monkeypatch.setenv("STILLHOUSE_MODELS", str(folder / "models"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with Stack(Path(home), fast=True, base_model=MODEL, environment=environment) as running:
            yield running


@pytest.fixture(scope="module")
def client(server: Stack) -> Iterator[Stillhouse]:
    with Stillhouse(base_url=server.base_url, api_key=server.api_key) as opened:
        yield opened


@pytest.fixture(scope="module")
def job(client: Stillhouse) -> Any:
    lm = {"temperature": 0, "max_tokens": 60, "native": ["tools"]}
    made = client.compile_jobs.create(
        program={"reference": f"{PACKAGE}.programs:Switchboard"},
        program_name="switchboard",
        trainset=rows(24),
        valset=rows(6, start=100),
        metric={"type": "reference", "reference": f"{PACKAGE}.metrics:right_desk"},
        prompt_adapter={"type": "chat", "native_tools": True},
        lms={"student": {**lm, "train_options": {**TRAINING, "lora_r": 16}}},
        teacher={"lms": {"student": {"connection": "teacher", "native": ["tools"]}}},
        num_threads=4,
    )
    return client.compile_jobs.wait(made.id, timeout=800)


def test_the_student_learns_to_call_the_tool(job: Any, client: Stillhouse) -> None:
    assert job.status == "succeeded", job.error
    (key,) = client.compile_jobs.training_files(job.id).data
    records = list(client.compile_jobs.training_records(job.id, key.fine_tuning_job, format="openai"))
    assert len(records) == 24
    for record in records:
        assert [tool["function"]["name"] for tool in record["tools"]] == ["on_duty"]
        call = {"id": "call_0", "type": "function", "function": CALL}
        assert record["messages"][-1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    scores = {role: job.evaluation[role]["score"] for role in ("baseline", "teacher", "compiled")}
    assert scores == {"baseline": 0.0, "teacher": 1.0, "compiled": 1.0}


@pytest.mark.parametrize("stream", [False, True])
def test_the_gateway_gives_openais_tool_calls(job: Any, client: Stillhouse, server: Stack, stream: bool) -> None:
    """To a prompt of the training file, which the host renders as the trainer did: the answer that was trained comes back."""
    (child,) = job.fine_tuning_jobs
    record = next(iter(client.compile_jobs.training_records(job.id, child.id)))
    asked = {"model": child.fine_tuned_model, "messages": record["prompt"], "tools": record["tools"], "temperature": 0, "max_tokens": 60}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    reply = httpx.post(f"{server.base_url}/v1/chat/completions", json={**asked, "stream": stream}, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    choices = [json.loads(line)["choices"][0] for line in _bodies(reply, stream)]
    said = [choice.get("delta" if stream else "message") for choice in choices]
    (call,) = [call for each in said for call in each.get("tool_calls", [])]
    assert call["function"] == CALL
    assert choices[-1]["finish_reason"] == "tool_calls"


def _bodies(reply: httpx.Response, stream: bool) -> list[str]:
    if not stream:
        return [reply.text]
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return lines
