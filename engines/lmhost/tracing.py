"""A span for each generation, below the span of the caller; it holds counts and codes, and never a prompt or an answer.

OpenTelemetry's own variables say where spans are sent. Without an endpoint nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORT_SECONDS = 5.0
_STOP_SECONDS = 3.0
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


class Generation:
    """The span of one request, until it is finished or has failed; without a span it records nothing."""

    def __init__(self, operation: str, span: Span | None = None) -> None:
        self._operation, self._span = operation, span

    def begin(self, model: str) -> None:
        """Name the model, once it is known to be one of the host's."""
        if self._span is not None:
            self._span.update_name(f"{self._operation} {model}")
            self._span.set_attribute("gen_ai.request.model", model)

    def finish(self, usage: Mapping[str, Any], finishes: Sequence[str], queue_seconds: float) -> None:
        """End the span of a request that was answered."""
        if self._span is not None:
            self._span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": usage["prompt_tokens"],
                    "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                    "gen_ai.usage.output_tokens": usage["completion_tokens"],
                    "gen_ai.response.finish_reasons": finishes,
                    "gen_ai.latency.time_in_queue": queue_seconds,  # vLLM's name; the conventions have none
                }
            )
            self._end()

    def fail(self, code: str) -> None:
        """End the span with the code of an error; one that has ended stays as it is."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
            self._end()

    def _end(self) -> None:
        if self._span is not None:
            self._span.end()
            self._span = None


def configure() -> None:
    """Send spans over OTLP/HTTP where a variable of OpenTelemetry names an endpoint. Without its packages, log a warning instead."""
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("no spans are sent: OpenTelemetry is not installed: pip install 'stillhouse-server[tracing]'")
        return
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for each lost batch
    start(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_SECONDS)))


def start(processor: SpanProcessor) -> None:
    """Record spans from now on and give them to ``processor``."""
    global _provider, _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create({"service.name": "stillhouse-lm-host", "service.namespace": "stillhouse"})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
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


def generation(operation: str, headers: Mapping[str, str]) -> Generation:
    """Begin the span of a request, below the one that its ``traceparent`` header names."""
    if _tracer is None:
        return Generation(operation)
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(headers, Context())
    attributes = {"gen_ai.operation.name": operation}
    return Generation(operation, _tracer.start_span(operation, parent, SpanKind.SERVER, attributes))
