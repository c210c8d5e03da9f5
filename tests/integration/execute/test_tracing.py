"""The spans of one job, from the request that made it to its artifact, and what is in none of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from distill import tracing
from distill.settings import get_settings
from tests.integration.execute.client_player import TOML
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, configured, knows, rows
from tests.support.scripted_lm import ScriptedLM
from workers.dispatcher import Dispatcher

CANARY = "canary-5f2e"
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{CALLER}-00f067aa0ba902b7-01"


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    tracing.start("test", SimpleSpanProcessor(found))
    yield found
    tracing.stop()


def create(api: TestClient, **more: object) -> str:
    """A job whose prompts, rows and answers hold the canary."""
    program = copy.deepcopy(SUPPORT)
    program["predictors"][1]["signature"]["instructions"] = f"Answer the customer. {CANARY}"
    data = [{"message": f"{CANARY} {row['message']}", "category": row["category"]} for row in rows(6)]
    body = {"program": program, "trainset": data, "metric": {"type": "exact_match", "fields": ["category"]}, "evaluate": {"roles": []}}
    made = api.post(f"/v1/compile_jobs?{more.pop('query', '')}", json={**body, **more}, headers={"traceparent": TRACEPARENT})
    assert made.status_code in (200, 201), made.text
    return str(made.json().get("id"))


def dispatch() -> None:
    Dispatcher(get_settings().timers, send=lambda _queue: None).round()


def of_job(exporter: InMemorySpanExporter, job_id: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.context.trace_id == tracing.trace_id_of(job_id)]


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def test_one_trace_has_request_hint_items_lm_calls_and_trainings(house: House, api: TestClient, exporter: InMemorySpanExporter) -> None:
    house.teacher.answer = lambda ask: {**knows(ask), **({"answer": CANARY} if "answer" in ask.outputs else {})}
    job_id = create(api, multitask=False)
    dispatch()
    house.succeed(job_id)
    spans = of_job(exporter, job_id)
    names = Counter(span.name for span in spans)
    assert {"submit job", "send hint", "lm call chat/completions", "training", "load model", "publish artifact"} <= set(names)
    assert {f"work item {step}" for step in ("validate", "bootstrap", "prepare", "assemble", "train", "package")} <= set(names)
    assert (names["training"], names["load model"], names["publish artifact"], names["submit job"], names["end job"]) == (2, 2, 1, 1, 1)
    assert names["lm call chat/completions"] == len(house.teacher.calls) + len(house.student.calls)

    by_id = {span.context.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent is None]
    assert root.name == "submit job"
    assert all(span.parent is not None and span.parent.span_id in by_id for span in spans if span is not root)
    parents = {span.name: by_id[span.parent.span_id].name for span in spans if span.parent is not None}
    assert parents["send hint"] == parents["work item train"] == "submit job"
    assert (parents["lm call chat/completions"], parents["training"]) == ("work item bootstrap", "work item train")
    assert {attribute(span, "stillhouse.outcome") for span in spans if span.name.startswith("work item")} == {"succeeded"}
    assert all(attribute(span, "stillhouse.steps") == 1 for span in spans if span.name == "training")
    called = next(span for span in spans if span.name.startswith("lm call"))
    assert (attribute(called, "gen_ai.request.model"), attribute(called, "http.response.status_code")) == ("big", 200)
    assert isinstance(attribute(called, "gen_ai.usage.output_tokens"), int)


def test_the_request_is_in_its_callers_trace_and_linked_to_the_jobs(house: House, api: TestClient, exporter: InMemorySpanExporter) -> None:
    job_id = create(api)
    (request,) = [span for span in exporter.get_finished_spans() if span.name == "POST /v1/compile_jobs"]
    (root,) = of_job(exporter, job_id)
    assert request.context.trace_id == int(CALLER, 16)
    assert [link.context.span_id for link in request.links] == [root.context.span_id]
    assert [link.context.span_id for link in root.links] == [request.context.span_id]
    assert (attribute(request, "http.route"), attribute(request, "http.response.status_code")) == ("/v1/compile_jobs", 201)


def test_a_header_of_a_caller_without_a_key_is_not_trusted(house: House, api: TestClient, exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": TRACEPARENT}
    assert api.get("/v1/me", headers={**headers, "Authorization": "Bearer sh_nobody_0"}).status_code == 401
    assert api.get("/sign-in", headers=headers).status_code == 200
    assert int(CALLER, 16) not in {span.context.trace_id for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("ratio", ["0", "1"])
def test_the_sampling_ratio_keeps_or_leaves_out_a_job_as_a_whole(
    house: House, api: TestClient, monkeypatch: pytest.MonkeyPatch, ratio: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    found = InMemorySpanExporter()
    tracing.start("test", SimpleSpanProcessor(found))
    try:
        job_id = create(api)
        dispatch()
    finally:
        tracing.stop()
    expected = {"submit job", "send hint"} if ratio == "1" else set()
    assert {span.name for span in of_job(found, job_id)} == expected


def test_a_job_that_is_only_tried_out_has_no_trace(house: House, api: TestClient, exporter: InMemorySpanExporter) -> None:
    create(api, query="dry_run=true")
    assert {span.name for span in exporter.get_finished_spans()} == {"POST /v1/compile_jobs"}


def test_the_lm_hosts_of_the_operator_are_told_the_trace(house: House, exporter: InMemorySpanExporter) -> None:
    job_id = house.submit(rows(3))
    house.run(job_id, until=lambda job: job.step == "prepare")
    said = {call.headers["traceparent"].split("-")[1] for call in house.teacher.calls}
    assert {int(trace_id, 16) for trace_id in said} == {tracing.trace_id_of(job_id)}


def test_no_span_holds_prompts_rows_answers_queries_or_messages(house: House, api: TestClient, exporter: InMemorySpanExporter) -> None:
    assert isinstance(house.trainer, PretendTrainer)
    house.trainer.unusable = f"{CANARY} cannot be loaded"
    job_id = create(api)
    api.get(f"/v1/compile_jobs?created_by={CANARY}")
    api.get(f"/{CANARY}", headers={"x-request-id": "mine"})
    dispatch()
    assert house.run(job_id).status == "failed"
    (failed,) = [span for span in of_job(exporter, job_id) if attribute(span, "stillhouse.outcome") == "failed"]
    (end,) = [span for span in of_job(exporter, job_id) if span.name == "end job"]
    assert {attribute(failed, "error.type"), attribute(end, "error.type")} == {"base_model_unusable"}
    assert (failed.status.status_code, attribute(end, "stillhouse.status")) == (StatusCode.ERROR, "failed")
    everything = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "/v1/compile_jobs" in everything
    assert CANARY not in everything
