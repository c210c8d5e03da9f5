"""What of a line of recorded runs is sent: the fields that the server has, within its limits. It refuses a batch that has any other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0, lt=2**40)]
Seconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]


class Tokens(BaseModel):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0


class LmUsage(Tokens):
    calls: Count = 0


class Usage(LmUsage):
    lms: Annotated[dict[str, LmUsage], Field(max_length=100)] = {}


class Call(BaseModel):
    predictor: Annotated[str, Field(max_length=200)] | None
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    raw: str | None = None
    overrides: Annotated[list[str], Field(max_length=100)] = []
    lm: Annotated[str, Field(max_length=300)] | None = None
    usage: Tokens = Tokens()
    seconds: Seconds = 0.0
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    discarded: bool = False


class Error(BaseModel):
    type: Annotated[str, Field(max_length=200)]
    message: Annotated[str, Field(max_length=2000)] = ""
    traceback: Annotated[str, Field(max_length=20_000)] = ""


class Trace(BaseModel):
    """One run; an error may be a text here."""

    status: Literal["ok", "failed", "unparsable"] = "ok"
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    error: Error | str | None = None
    calls: Annotated[list[Call], Field(max_length=1000)] = []
    usage: Usage = Usage()
    foreign_calls: Count = 0
    seconds: Seconds = 0.0
