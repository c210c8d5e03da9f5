"""The span of one LM call: model, tokens and status, and nothing of what was asked or answered."""

from __future__ import annotations

from contextlib import AbstractContextManager

from distill import tracing
from distill.relay.targets import Api, RelayReply, Target
from distill.relay.usage import read_usage


def of_call(target: Target, api: Api, parent: tracing.Parent | None) -> AbstractContextManager[tracing.Recorded]:
    """Below `parent`, or below the current span."""
    attributes = {"gen_ai.request.model": target.model, "stillhouse.connection": target.connection}
    return tracing.span(f"lm call {api.path}", attributes, kind="client", parent=parent)


def record(span: tracing.Recorded, reply: RelayReply) -> None:
    usage = read_usage(reply.answer.get("usage"))
    span.set(
        {
            "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
            "http.response.status_code": reply.status,
            "stillhouse.requests": reply.attempts,
        }
    )
    if reply.code is not None:
        span.fail(reply.code)


def traced(target: Target) -> dict[str, str]:
    """Headers by which an LM host of the operator's adds its own spans to the trace."""
    return {} if target.public_only else tracing.headers()
