"""Traces for OpenTelemetry, off unless an endpoint is set; what is off imports nothing of OpenTelemetry.

The trace id of a job is derived from the job's id, so that every process adds its spans to the same trace without being passed a context.
Spans carry ids, counts and error codes, and never a prompt, a row, an answer or an error's message.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import structlog

from distill.settings import get_settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span, Tracer

    Parent = Context
else:
    Parent = Any

log = structlog.get_logger(__name__)

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool | None]
MISSING = "OpenTelemetry is not installed: pip install 'stillhouse-server[tracing]'"
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_ROOT_NAME = "submit job"
_EXPORT_SECONDS = 5.0
_STOP_SECONDS = 3.0
_QUEUED_SPANS = 4096
"""Of one process, while the collector does not take them: the oldest go first."""


class Recorded:
    """A span that is being recorded. `None` where tracing is off or the trace is not sampled."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Add attributes; those that are None are left out."""
        if self._span is not None:
            self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, code: str) -> None:
        """Mark it as failed with an error's code or class, never its message."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)

    def link_job(self, job_id: str) -> None:
        """Link this span to the trace of a job."""
        if self._span is not None:
            self._span.add_link(_job_root(job_id))


OFF = Recorded(None)
_current: ContextVar[Recorded] = ContextVar("current_span", default=OFF)
_root_of: ContextVar[str | None] = ContextVar("root_of_job", default=None)
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def endpoint() -> str | None:
    """Where spans are sent: `[tracing] endpoint`, else OpenTelemetry's own variable; None while tracing is off."""
    return get_settings().tracing.endpoint or next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)


def configure(process: str) -> None:
    """Set up tracing for this process, if an endpoint is set. Without the packages it logs a warning and stays off."""
    if endpoint() is None:
        return
    try:
        processor = otlp(get_settings().tracing.endpoint)
    except ImportError:
        log.warning("tracing_off", error=MISSING)
        return
    start(process, processor)


def start(process: str, processor: SpanProcessor) -> None:
    """Record spans from now on and give them to `processor`."""
    global _provider, _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create({"service.name": f"stillhouse-{process}", "service.namespace": "stillhouse"})
    _provider = TracerProvider(resource=resource, id_generator=_job_ids(), shutdown_on_exit=False)
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("stillhouse")


def stop() -> None:
    """Send what is left, for a few seconds at most, and record nothing more."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        sending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(_STOP_SECONDS)


def is_on() -> bool:
    return _tracer is not None


def current() -> Recorded:
    """The innermost span of this thread or task."""
    return _current.get()


def context() -> Parent | None:
    """For `span(parent=...)` in another thread or event loop."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


@contextmanager
def span(
    name: str, attributes: Attributes | None = None, *, kind: Kind = "internal", job_id: str | None = None, parent: Parent | None = None
) -> Iterator[Recorded]:
    """Record the block: inside the trace of `job_id`, or below `parent`, or below the current span.

    An exception marks the span with its class and is raised on.
    """
    if _tracer is None:
        yield OFF
        return
    from opentelemetry import trace

    begun = _tracer.start_span(name, parent if job_id is None else _job_context(job_id), trace.SpanKind[kind.upper()])
    recorded = Recorded(begun if begun.is_recording() else None)
    recorded.set({"stillhouse.job_id": job_id, **(attributes or {})})
    token = _current.set(recorded)
    try:
        with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield recorded
            except BaseException as error:
                recorded.fail(type(error).__name__)
                raise
    finally:
        _current.reset(token)


def from_headers(headers: Mapping[str, str]) -> Parent | None:
    """The caller's context, from its `traceparent` header."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers, Context())


def headers() -> dict[str, str]:
    """`traceparent` of the current span; nothing while tracing is off."""
    found: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(found)
    return found


def record_hint(queue: str, job_ids: Sequence[str], began_ns: int) -> None:
    """Record in each job's trace that a hint for its work was sent."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind

    for job_id in job_ids:
        attributes = {"stillhouse.job_id": job_id, "stillhouse.queue": queue}
        _tracer.start_span("send hint", _job_context(job_id), SpanKind.PRODUCER, attributes, start_time=began_ns).end()


def record_end(job_id: str, status: str, code: str | None) -> None:
    """Record in a job's trace how it ended."""
    with span("end job", {"stillhouse.status": status}, job_id=job_id) as recorded:
        if code is not None:
            recorded.fail(code)


class Submitted:
    """The root span of a new job's trace, linked to the request that made it. Begins when it is made; `record` once it is committed."""

    def __init__(self, job_id: str, kind: str) -> None:
        self._job_id, self._kind = job_id, kind
        self._began_ns = time.time_ns()
        self._request = current()
        self._context = context()

    def record(self) -> None:
        if _tracer is None or self._context is None:
            return
        from opentelemetry import trace
        from opentelemetry.context import Context

        links = [trace.Link(found)] if (found := trace.get_current_span(self._context).get_span_context()).is_valid else []
        attributes = {"stillhouse.job_id": self._job_id, "stillhouse.job_kind": self._kind}
        token = _root_of.set(self._job_id)
        try:
            _tracer.start_span(_ROOT_NAME, Context(), trace.SpanKind.PRODUCER, attributes, links, self._began_ns).end()
        finally:
            _root_of.reset(token)
        self._request.link_job(self._job_id)


def _digest(job_id: str) -> bytes:
    return hashlib.sha256(f"stillhouse-trace:{job_id}".encode()).digest()


def trace_id_of(job_id: str) -> int:
    """The trace id of a job, the same in every process."""
    return int.from_bytes(_digest(job_id)[:16])


def _root_span_id_of(job_id: str) -> int:
    return int.from_bytes(_digest(job_id)[16:24])


def _job_root(job_id: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED if _is_sampled(job_id) else TraceFlags.DEFAULT)
    return SpanContext(trace_id_of(job_id), _root_span_id_of(job_id), is_remote=True, trace_flags=flags)


def _is_sampled(job_id: str) -> bool:
    """Whether the root span of a job's trace is: samplers that go by the parent decide by this for all other spans of the job."""
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Decision

    if (provider := _provider) is None:
        return False
    return provider.sampler.should_sample(Context(), trace_id_of(job_id), _ROOT_NAME).decision is Decision.RECORD_AND_SAMPLE


def _job_context(job_id: str) -> Parent:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(_job_root(job_id)), Context())


def _job_ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class JobIds(RandomIdGenerator):
        """Random ids, but those of a job's root span come from the job's id."""

        def generate_trace_id(self) -> int:
            job_id = _root_of.get()
            return super().generate_trace_id() if job_id is None else trace_id_of(job_id)

        def generate_span_id(self) -> int:
            job_id = _root_of.get()
            return super().generate_span_id() if job_id is None else _root_span_id_of(job_id)

    return JobIds()


def otlp(base: str | None) -> SpanProcessor:
    """OTLP over HTTP, in batches from a thread of its own. Without `base` OpenTelemetry's variables say where. Raises ImportError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class OneLine(SpanExporter):
        """Logs once that the collector does not take spans, and once that it does again."""

        def __init__(self, exporter: SpanExporter) -> None:
            self._exporter = exporter
            self._fails = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = self._exporter.export(spans)
            fails = result is not SpanExportResult.SUCCESS
            if fails != self._fails:
                self._fails = fails
                log.warning("collector_takes_no_spans") if fails else log.info("collector_takes_spans")
            return result

        def shutdown(self) -> None:
            self._exporter.shutdown()

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for each lost batch
    address = None if base is None else f"{base.rstrip('/')}/v1/traces"
    return BatchSpanProcessor(OneLine(OTLPSpanExporter(address, timeout=_EXPORT_SECONDS)), max_queue_size=_QUEUED_SPANS)
