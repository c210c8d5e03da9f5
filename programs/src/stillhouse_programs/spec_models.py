"""The wire form of a program spec as pydantic models: leaf predictors with typed signatures, and straight-line wiring."""

import difflib
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

STRING_SCHEMA: dict[str, Any] = {"type": "string"}
# Members of dicts have names only in references: `steps['first']`.
PREDICTOR_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*|\[\d{1,3}\]|\['[^'\\\[\]\x00-\x1f]{1,100}'\])*$"
# A class of a module, a function, or a function of a class.
TARGET_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)?$"

JsonObject: TypeAlias = dict[str, Any]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
PredictorName = Annotated[str, StringConstraints(pattern=PREDICTOR_PATTERN, max_length=200)]
Target = Annotated[str, StringConstraints(pattern=TARGET_PATTERN, max_length=300)]
RoleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=100)]
StepId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
# Each part has a limit of its own: a reference stays valid when its step gets the id of the canonical form.
ReferencePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}(\.[A-Za-z][A-Za-z0-9_]{0,399}){1,20}$")]


PromptAdapterType = Literal["chat", "json", "xml", "baml", "compact"]
PROMPT_ADAPTER_TYPES: tuple[str, ...] = get_args(PromptAdapterType)


def no_prompt_adapter(name: str) -> str:
    """Say why there is no prompt adapter of this name, and what to use."""
    known = ", ".join(PROMPT_ADAPTER_TYPES)
    if name.lower().replace("_", "").replace("-", "").startswith("twostep"):
        return f"under {name} a second LM reads the answers, so no row can say what the student is to write; use one of {known}"
    return f"no rows can be rendered for the prompt adapter {name[:80]}; use one of {known}{nearest(name, list(PROMPT_ADAPTER_TYPES))}"


def nearest(name: str, known: list[str]) -> str:
    """Return `; did you mean ...?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


class SpecModel(BaseModel):
    """Base of all spec models: frozen, and an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data:
            if key not in known and key not in cls.model_fields:
                raise PydanticCustomError("unknown_key", "unknown key `{key}`{hint}", {"key": str(key), "hint": nearest(str(key), known)})
        return data


class FieldSpec(SpecModel):
    """One field of a signature. `schema` is the JSON schema of its type; a `default` that is not given differs from null."""

    name: FieldName
    role: Literal["input", "output"]
    json_schema: JsonObject = Field(default_factory=lambda: dict(STRING_SCHEMA), alias="schema", description="JSON schema of its type.")
    desc: str | None = Field(None, description="What the prompt says about the field; dspy's own text if left out.")
    default: Any = Field(None, description="Value of an input that is not given.")
    constraints: str | None = Field(None, description="Bounds as dspy words them in a prompt.")

    @property
    def has_default(self) -> bool:
        """Whether a default was given, null included."""
        return "default" in self.model_fields_set


class SignatureSpec(SpecModel):
    """Instructions and fields of a predictor; the order of the fields is their order in the prompt."""

    instructions: str | None = Field(None, description="dspy's own sentence about the fields if left out.")
    fields: list[FieldSpec] = Field(min_length=1, max_length=100)

    def of_role(self, role: Literal["input", "output"]) -> list[FieldSpec]:
        """Return the fields of one role, in order."""
        return [field for field in self.fields if field.role == role]

    def field(self, name: str) -> FieldSpec | None:
        """Return the field called `name`, or None."""
        return next((field for field in self.fields if field.name == name), None)


class GenerationConfig(SpecModel):
    """LM options a predictor sets for itself. Only sampling options: no address, key or header can stand here."""

    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=64)
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    reasoning_effort: str | None = None

    def options(self) -> JsonObject:
        """Return the options that were given, in their order."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class PredictorSpec(SpecModel):
    """A `dspy.Predict` leaf under its `named_predictors()` name. `type: ChainOfThought` adds a `reasoning` output when expanded."""

    name: PredictorName
    type: Literal["Predict", "ChainOfThought"] = "Predict"
    lm: RoleName = Field(description="Role name, resolved in the job's `lms`.")
    signature: SignatureSpec
    config: GenerationConfig = Field(default_factory=GenerationConfig)
    demos: list[JsonObject] = Field(default_factory=list)


class FromRef(SpecModel):
    """A value taken from the program's inputs or an earlier step: `input.message`, `c.category`, `c.order.note`."""

    from_: ReferencePath = Field(alias="from")

    @property
    def parts(self) -> list[str]:
        """The reference split at its dots; at least two parts."""
        return self.from_.split(".")


class ValueRef(SpecModel):
    """A JSON constant."""

    value: Any


class TemplateRef(SpecModel):
    """Text pieces and references, joined; values are put in with `str()`."""

    template: list[str | FromRef] = Field(min_length=1)


def _reference_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in ("from", "template", "value") if kind in value), None)
    kinds: dict[type, str] = {FromRef: "from", ValueRef: "value", TemplateRef: "template"}
    return kinds.get(type(value))


Reference: TypeAlias = Annotated[
    Annotated[FromRef, Tag("from")] | Annotated[ValueRef, Tag("value")] | Annotated[TemplateRef, Tag("template")],
    Discriminator(
        _reference_kind,
        custom_error_type="reference",
        custom_error_message='expected one of {"from": "input.name"}, {"value": ...}, {"template": [...]}',
    ),
]


class StepSpec(SpecModel):
    """One predictor call. `args` maps input fields to references; only inputs and earlier steps may be named."""

    id: StepId
    predictor: PredictorName
    args: dict[FieldName, Reference] = Field(default_factory=dict)


class PromptAdapterSpec(SpecModel):
    """The prompt adapter that formats prompts and parses answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["type"], "properties": {"type": {"const": "compact"}}},
            "else": {"properties": {"instructions": {"type": "null"}, "reasoning": {"type": "null"}}},
        }
    )

    type: PromptAdapterType = "chat"
    native_tools: bool | None = Field(
        None, description="Whether tools go beside the text to LMs that take them; dspy's own choice for the type if left out."
    )
    instructions: bool | None = Field(None, description="`compact` only: false leaves the signature's instructions out of prompts.")
    reasoning: bool | None = Field(None, description="`compact` only: false leaves the output `reasoning` out of answers.")

    @model_validator(mode="after")
    def _refuse_options_of_compact(self) -> "PromptAdapterSpec":
        given = [name for name in ("instructions", "reasoning") if getattr(self, name) is not None]
        if given and self.type != "compact":
            named = {"name": given[0], "type": self.type}
            raise PydanticCustomError("option_of_compact", "{name} is an option of the type compact, not of {type}", named)
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests are made of this text.
        return {name: value for name, value in handler(self).items() if value is not None}

    @field_validator("type", mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in PROMPT_ADAPTER_TYPES:
            raise PydanticCustomError("unknown_prompt_adapter", "{why}", {"why": no_prompt_adapter(value)})
        return value


# Modules of a package by name, each with the SHA-256 of its file: the code that was described.
Source: TypeAlias = Annotated[
    dict[Annotated[str, StringConstraints(max_length=300)], Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]],
    Field(max_length=2000),
]


# The digest of a bundle's document; empty for code of an installed package.
BundleDigest = Annotated[str, StringConstraints(pattern=r"^(v1:[0-9a-f]{64})?$")]


class InputSpec(SpecModel):
    """An input of a program whose `forward` is code; without `schema` any value is taken."""

    name: FieldName
    json_schema: JsonObject = Field(default_factory=dict, alias="schema", description="JSON schema of its type.")
    required: bool = True


class ProgramReference(SpecModel):
    """Where the code of a program is: a class or function of an installed package, or of a bundle, called to make it. The server finds
    out the rest."""

    target: Target = Field(description="`package.module:name` of what makes the program when it is called.")
    kwargs: JsonObject = Field(default_factory=dict, description="Keyword arguments of that call.")
    inputs: list[InputSpec] = Field(max_length=100)
    source: Source = Field(default_factory=dict, description="SHA-256 of every module of the package that was imported to make it.")
    bundle: BundleDigest = Field("", description="The digest of the bundle that the code is in; of an installed package if left out.")

    @model_validator(mode="after")
    def _be_told_apart(self) -> "ProgramReference":
        if not self.source and not self.bundle:
            raise PydanticCustomError("no_source", "`source` is empty, and no `bundle` says which code it is")
        return self


class ClientCode(SpecModel):
    """The code of a program that its caller alone has: it runs in the caller's own process, and its traces are sent in."""

    inputs: list[InputSpec] = Field(max_length=100)
    source: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the code: other code has traces of its own.")
    identity: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="The `identity` that a bundle of this code has: runs of such a bundle share traces with runs by the client.",
    )


class ProgramSpec(SpecModel):
    """A whole program. A single predictor may leave out `steps` and `outputs`; see `expand`.

    With a `reference` or as a `client` program it runs by its own code, and `predictors` describe what is inside it.
    """

    spec_version: Literal[1] = 1
    predictors: list[PredictorSpec] = Field(min_length=1, max_length=100)
    reference: ProgramReference | None = Field(None, description="The code that runs instead of `steps`.")
    client: ClientCode | None = Field(None, description="The code that runs in the caller's own process instead of `steps`.")
    steps: list[StepSpec] | None = Field(None, min_length=1, max_length=1000)
    outputs: dict[FieldName, Reference] | None = Field(None, min_length=1)
    prompt_adapter: PromptAdapterSpec | None = Field(None, description="`chat` if neither the spec nor the job names one.")
    prompt_hash: str | None = Field(None, description="Hash of a scripted run of the original program, checked at validation.")

    @property
    def code(self) -> ProgramReference | ClientCode | None:
        """What runs in place of `steps`; None where the spec is the whole program."""
        return self.reference or self.client

    def predictor(self, name: str) -> PredictorSpec | None:
        """Return the predictor called `name`, or None."""
        return next((predictor for predictor in self.predictors if predictor.name == name), None)

    def step(self, step_id: str) -> StepSpec | None:
        """Return the step with this id, or None."""
        return next((step for step in self.steps or [] if step.id == step_id), None)
