"""Spans on their way to a collector over OTLP/HTTP."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from distill import tracing
from tests.support.databases import forget_settings
from tests.support.status_server import StatusServer, status_server


@pytest.fixture
def collector() -> Iterator[StatusServer]:
    with status_server() as server:
        yield server
        tracing.stop()


@pytest.mark.parametrize("variable", ["STILLHOUSE_TRACING__ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_a_process_that_ends_has_sent_its_spans(collector: StatusServer, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, collector.url)
    forget_settings()
    tracing.configure("worker")
    with pytest.raises(ValueError, match="secret"), tracing.span("work", {"stillhouse.units": 3, "left": None}, job_id="cjob-1"):
        raise ValueError("a secret message")
    tracing.stop()
    ((path, body),) = collector.received
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (span,) = sent.scope_spans[0].spans
    assert (path, span.name, int.from_bytes(span.trace_id)) == ("/v1/traces", "work", tracing.trace_id_of("cjob-1"))
    assert "stillhouse-worker" in {each.value.string_value for each in sent.resource.attributes}
    assert {each.key for each in span.attributes} == {"stillhouse.job_id", "stillhouse.units", "error.type"}
    assert b"secret" not in body


def test_a_collector_that_takes_nothing_is_logged_once(collector: StatusServer, caplog: pytest.LogCaptureFixture) -> None:
    processor = tracing.otlp(collector.url)
    tracing.start("worker", processor)
    caplog.set_level(logging.INFO)
    for collector.status in (400, 400, 200, 200):
        with tracing.span("work"):
            pass
        processor.force_flush()
    assert len(collector.received) == 4
    assert [record.message for record in caplog.records if "span" in record.message] == [
        "event='collector_takes_no_spans'",
        "event='collector_takes_spans'",
    ]


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    code = (
        "import sys; from distill import tracing; tracing.configure('worker')\n"
        "with tracing.span('work', job_id='cjob-1') as span: span.set({'a': 1}); span.fail('code')\n"
        "tracing.record_hint('light', ['cjob-1'], 0); tracing.Submitted('cjob-1', 'compile').record()\n"
        "assert tracing.context() is None and tracing.headers() == {}; tracing.stop()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    tracing.configure("worker")
    assert not tracing.is_on()
    assert "pip install 'stillhouse-server[tracing]'" in caplog.text
