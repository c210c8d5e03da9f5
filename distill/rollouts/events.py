"""What a runner may say. Its process runs users' code, so every event is checked before anybody believes it; nothing is unpickled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from distill.strict_json import is_deep

Json = dict[str, Any]
DEEPEST = 200
"""Levels of an event: twice those of what comes in, and less than whoever writes it down takes."""


def _of_a_runner(code: str) -> str:
    if code == "internal":
        raise ValueError("this server alone says that of itself")
    return code


Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$"), AfterValidator(_of_a_runner)]
RowDigest = Annotated[str, Field(pattern=r"^v1:[0-9a-f]{64}$")]
NoRow = Literal[
    "discarded", "override", "unparsable", "foreign_predictor", "missing_input", "missing_output", "output_type", "incomplete_demo",
    "cannot_render", "not_text", "not_round_trip",
]  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tokens(_Part):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class LmUsage(Tokens):
    calls: int


class TraceUsage(LmUsage):
    """`lms` is the same for each slot that was asked."""

    lms: dict[str, LmUsage]


class TraceCall(_Part):
    """`lm` is the slot that was asked; None when the call failed before."""

    predictor: str
    inputs: Json
    outputs: Json | None
    raw: str | None
    overrides: list[str]
    lm: str | None
    usage: Tokens
    seconds: float
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    discarded: bool = False
    logprob: float | None = None


class TraceError(_Part):
    type: str
    message: str
    traceback: str = ""


class Trace(_Part):
    """The stored JSON of one rollout."""

    status: Literal["ok", "failed", "unparsable"]
    inputs: Json
    outputs: Json | None
    calls: list[TraceCall]
    error: TraceError | None
    usage: TraceUsage
    foreign_calls: int
    seconds: float


class Score(_Part):
    """The stored JSON of one score. `value` is None where there is none."""

    value: float | None
    passed: bool
    status: Literal["ok", "inconclusive", "failed"]
    feedback: str | None
    error: str | None


class _Event(_Part):
    v: Literal[1]
    id: int | None


class TraceEvent(_Event):
    event: Literal["trace"]
    index: int
    n: int
    trace: Trace


class ScoreEvent(_Event):
    event: Literal["score"]
    index: int
    n: int
    score: Score


class InfraEvent(_Event):
    event: Literal["infra"]
    index: int
    n: int
    code: Code
    message: str


class ExampleDoneEvent(_Event):
    event: Literal["example_done"]
    index: int
    passed: bool
    rollouts_used: int


class WaitingEvent(_Event):
    """An example's time would be up, but its calls have waited so long for a place at their LM host."""

    event: Literal["waiting"]
    index: int
    n: int
    seconds: float


class Message(_Part):
    """A chat message in OpenAI's shape."""

    role: str
    content: str
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None


class RowEvent(_Event):
    event: Literal["row"]
    trace_digest: str
    call: int
    predictor: str
    prompt: list[Message]
    completion: list[Message]
    tools: list[Json] | None = None
    digest: RowDigest


class RejectedEvent(_Event):
    event: Literal["rejected"]
    trace_digest: str
    call: int
    predictor: str
    reason: NoRow
    message: str


class TriedEvent(_Event):
    """What a metric says of answers that were sent along."""

    event: Literal["tried"]
    scores: list[Score]


class ErrorEvent(_Event):
    event: Literal["error"]
    code: Code
    message: str
    param: str | None


class ValidatedEvent(_Event):
    """What `validate` found out of all programs of a job, by what names each."""

    event: Literal["validated"]
    predictors: list[Json]
    prompt_hash: dict[str, str]
    program_state: dict[str, Json]
    dspy_version: str


class DescribedEvent(_Event):
    """The spec of a program, or the source of a metric."""

    event: Literal["described"]
    program: Json | None = None
    source: dict[str, str] | None = None


class RenderedEvent(_Event):
    event: Literal["rendered"]
    messages: dict[str, list[Json]]


class CalledEvent(_Event):
    event: Literal["called"]
    outputs: Json
    usage: LmUsage
    seconds: float


class DoneEvent(_Event):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    event: Literal["done"]


REPLIES = {"validate": "validated", "describe": "described", "render": "rendered", "call": "called", "try_metric": "tried"}
"""The one event before `done` of a small op; those that are not named have none."""
_KINDS = ("trace", "score", "infra", "example_done", "waiting", "row", "rejected", "error", *REPLIES.values())


def _kind(value: Any) -> str:
    event = value.get("event") if isinstance(value, dict) else None
    return event if event in _KINDS else "done"


_EVENT: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        Annotated[TraceEvent, Tag("trace")]
        | Annotated[ScoreEvent, Tag("score")]
        | Annotated[InfraEvent, Tag("infra")]
        | Annotated[ExampleDoneEvent, Tag("example_done")]
        | Annotated[WaitingEvent, Tag("waiting")]
        | Annotated[RowEvent, Tag("row")]
        | Annotated[RejectedEvent, Tag("rejected")]
        | Annotated[TriedEvent, Tag("tried")]
        | Annotated[ErrorEvent, Tag("error")]
        | Annotated[ValidatedEvent, Tag("validated")]
        | Annotated[DescribedEvent, Tag("described")]
        | Annotated[RenderedEvent, Tag("rendered")]
        | Annotated[CalledEvent, Tag("called")]
        | Annotated[DoneEvent, Tag("done")],
        Discriminator(_kind),
    ]
)


def read_event(line: bytes) -> Json:
    """One event as JSON, with the keys in the order sent (it is part of a prompt). Raises ValueError for what v1 does not know."""
    event = orjson.loads(line)
    if line.count(b"{") + line.count(b"[") > DEEPEST and is_deep(event, DEEPEST):
        raise ValueError(f"is nested more than {DEEPEST} levels deep")
    try:
        _EVENT.validate_python(event)
    except ValidationError as fault:
        first = fault.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return event  # type: ignore[no-any-return]


def answers(op: str, body: Json, reply: Json) -> bool:
    """Whether the reply of a small op tells of all that was asked, and of nothing else."""
    if op == "validate":
        names = {program.get("program_digest") for program in (body, *body.get("teachers", ()))}
        # The runner makes up a name for a program that has none.
        return None in names or names == reply["prompt_hash"].keys() == reply["program_state"].keys()
    if op == "describe":
        return reply.get("source" if body.get("metric") else "program") is not None
    return op != "try_metric" or len(reply["scores"]) == len(body["examples"])
