"""Programs and their rendered prompts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from app.schemas.common import Body, Metadata, Name, Reply


class ProgramCreate(Body):
    """A program spec with a name. A bare spec (`{"predictors": […]}`) is taken too."""

    name: Name | None = None
    spec: dict[str, Any] = Field(description="The program spec; its schema is GET /v1/spec/schema.json")
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _wrap_bare_spec(cls, value: Any) -> Any:
        is_bare = isinstance(value, dict) and "predictors" in value and "spec" not in value
        return {"spec": value} if is_bare else value


class ProgramRead(Reply):
    id: str
    object: Literal["program"] = "program"
    created_at: int
    name: str | None
    digest: str
    inputs: list[str]
    outputs: list[str]
    predictors: list[str]
    lms: list[str] = Field(description="Role names that a compile job resolves in its `lms`")
    spec: dict[str, Any]
    metadata: dict[str, str]


class RenderRequest(Body):
    inputs: dict[str, Any]
    prompt_adapter: dict[str, Any] | str | None = None


class RenderedCall(Reply):
    predictor: str
    messages: list[dict[str, Any]]


class RenderRead(Reply):
    """The messages each predictor would send; later predictors show invented values for what earlier ones would answer."""

    object: Literal["program.render"] = "program.render"
    program: str
    calls: list[RenderedCall]
