"""Programs and their rendered prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app import examples
from app.schemas.common import Body, Metadata, Name, Reply
from app.schemas.rules import NULL, ReadAs, declared, if_given, needs, ruled
from stillhouse_programs.spec_models import PROMPT_ADAPTER_TYPES, TARGET_PATTERN, ProgramSpec, PromptAdapterSpec

#: What a preview of a program that is code cannot show.
CODE_NOTE = (
    "This program is code: which predictors it calls, with what, shows when it runs. Inputs stand in fields of the same name; all else "
    "stands as {predictor.field}."
)


class ReferenceParts(Body):
    """A program that is code of a package installed on the server, or of a bundle."""

    reference: Annotated[str, declared(pattern=TARGET_PATTERN)] | None = Field(
        default=None, description="`package.module:name` of a class or function that makes the program"
    )
    kwargs: dict[str, Any] | None = Field(default=None, description="Keyword arguments that it is called with")
    bundle: Annotated[str, declared(minLength=1)] | None = Field(
        default=None, description="`bundle-…`: the code is in it, and not of an installed package"
    )
    lms: dict[str, str] | None = Field(default=None, description="LM role of each predictor; `student` where none is given")
    inputs: list[str | dict[str, Any]] | None = Field(
        default=None, description="Names of the inputs, or `{name, schema, required}`; the parameters of `forward` if absent"
    )

    def reference_body(self) -> dict[str, Any]:
        """What was given of them."""
        return {name: value for name in ReferenceParts.model_fields if (value := getattr(self, name)) is not None}


class CodeDocument(ReferenceParts):
    """A reference to code where a job takes a spec."""

    reference: Annotated[str, declared(pattern=TARGET_PATTERN)] = Field(description="`package.module:name` of what makes the program")


StoredProgram = Annotated[str, declared(pattern=r"^prog-[!-~]+$")]
PromptAdapterIn = Annotated[str, declared(enum=PROMPT_ADAPTER_TYPES)] | Annotated[dict[str, Any], ReadAs(PromptAdapterSpec)]
ProgramDocument = Annotated[dict[str, Any], ReadAs(ProgramSpec | CodeDocument)]


class ProgramCreate(ReferenceParts):
    """A program with a name: a spec, or a reference to code. A bare spec (`{"predictors": […]}`) is taken too."""

    model_config = ruled(
        examples.shown(name="support-router", spec=examples.SPEC),
        if_given("spec", "object", {"properties": dict.fromkeys(ReferenceParts.model_fields, NULL)}, needs("reference", "string")),
    )

    name: Name | None = None
    spec: Annotated[dict[str, Any], ReadAs(ProgramSpec)] | None = Field(
        default=None, description="The program spec; its schema is GET /v1/spec/schema.json"
    )
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _wrap_bare_spec(cls, value: Any) -> Any:
        is_bare = isinstance(value, dict) and "predictors" in value and "spec" not in value
        return {"spec": value} if is_bare else value

    @model_validator(mode="after")
    def _one_of_both(self) -> ProgramCreate:
        if (self.spec is None) == (self.reference is None):
            raise PydanticCustomError("one_of", "give either `spec` or `reference`")
        if self.reference is None and self.reference_body():
            raise PydanticCustomError("one_of", "`kwargs`, `bundle`, `lms` and `inputs` belong to a `reference`")
        return self

    @property
    def place(self) -> str:
        """Where in the body the program stands."""
        return "spec" if self.spec is not None else ""

    def program(self) -> dict[str, Any]:
        """The spec, or the reference."""
        return self.reference_body() if self.spec is None else self.spec


class ProgramRead(Reply):
    id: str
    object: Literal["program"] = "program"
    created_at: int
    name: str | None
    digest: str
    inputs: list[str]
    outputs: list[str] = Field(description="Empty for code, which says what it returns when it runs")
    predictors: list[str]
    lms: list[str] = Field(description="Role names that a compile job resolves in its `lms`")
    spec: dict[str, Any]
    metadata: dict[str, str]


class RenderRequest(Body):
    model_config = examples.shown(inputs=examples.INPUTS)

    inputs: dict[str, Any]
    prompt_adapter: PromptAdapterIn | None = None


class RenderedCall(Reply):
    predictor: str
    messages: list[dict[str, Any]]


class ProgramMade(ProgramRead):
    """A program that was stored, with what it would send."""

    prompts: list[RenderedCall] | None = Field(
        description="The messages of each predictor, an input standing as `{input.name}`; null where they cannot be shown: see `note`"
    )
    note: str | None = Field(default=None, description="Why they cannot be shown")


class RenderRead(Reply):
    """The messages each predictor would send; what an LM would say stands as its reference in braces."""

    object: Literal["program.render"] = "program.render"
    program: str
    calls: list[RenderedCall]
    note: str | None = Field(default=None, description="What the preview cannot show")
