"""What OpenAI's clients send to /v1/responses, as far as an LM host that has chat completions can do it; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app import examples
from app.schemas.common import Body, Metadata

Text = Annotated[str, Field(min_length=1)]
_STATELESS = "this server keeps no responses; send the whole conversation in `input`"


class Given(BaseModel):
    """A part of the conversation. Clients send back what a response said of it (ids, statuses): that is passed over."""

    model_config = ConfigDict(extra="ignore")


class TextIn(Given):
    type: Literal["input_text", "output_text"]
    text: str


class RefusalIn(Given):
    type: Literal["refusal"]
    refusal: str


class ImageIn(Given):
    type: Literal["input_image"]
    image_url: Text
    detail: Literal["low", "high", "auto"] | None = None


def _kind_of(value: Any, default: str = "") -> str:
    kind = value.get("type", default) if isinstance(value, Mapping) else getattr(value, "type", default)
    return kind if isinstance(kind, str) else ""


def _among(kinds: Mapping[str, str], advice: str, default: str = "") -> BeforeValidator:
    """Refuses other kinds by their name: pydantic would list the tags of its branches."""

    def check(value: Any) -> Any:
        kind = _kind_of(value, default)
        if isinstance(value, Mapping) and kind not in kinds:
            raise PydanticCustomError("unsupported", "type `{kind}` is not taken here; {advice}", {"kind": kind[:64], "advice": advice})
        return value

    return BeforeValidator(check)


def _tagged(kinds: Mapping[str, str], default: str = "") -> Discriminator:
    choose: Callable[[Any], str | None] = lambda value: kinds.get(_kind_of(value, default))  # noqa: E731 - pydantic reads its signature
    return Discriminator(choose)


_PARTS = {"input_text": "TextIn", "output_text": "TextIn", "refusal": "RefusalIn", "input_image": "ImageIn"}
Part = Annotated[
    Annotated[TextIn, Tag("TextIn")] | Annotated[RefusalIn, Tag("RefusalIn")] | Annotated[ImageIn, Tag("ImageIn")],
    _tagged(_PARTS),
    _among(_PARTS, "a message has texts and images by their URL"),
]


class MessageIn(Given):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class FunctionCallIn(Given):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: str


class FunctionOutputIn(Given):
    type: Literal["function_call_output"]
    call_id: Text
    output: str | list[Part]


_ITEMS = {"message": "MessageIn", "function_call": "FunctionCallIn", "function_call_output": "FunctionOutputIn"}
Item = Annotated[
    Annotated[MessageIn, Tag("MessageIn")]
    | Annotated[FunctionCallIn, Tag("FunctionCallIn")]
    | Annotated[FunctionOutputIn, Tag("FunctionOutputIn")],
    _tagged(_ITEMS, "message"),
    _among(_ITEMS, "send messages, function calls and their outputs", "message"),
]


class FunctionTool(Body):
    """A tool that the caller runs."""

    type: Literal["function"]
    name: Text
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[FunctionTool, _among({"function": ""}, "this server has no built-in tools; give function tools")]


class NamedToolIn(Body):
    type: Literal["function"]
    name: Text


class FormatIn(BaseModel):
    """The form of the answer's text; a schema has a name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> FormatIn:
        if self.type == "json_schema" and (self.name is None or self.json_schema is None):
            raise ValueError("json_schema takes `name` and `schema`")
        return self


class TextOptions(Body):
    format: FormatIn | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: str | None = None
    summary: str | None = Field(default=None, description="No summary is made: absent or null")


class ResponseStreamOptions(Body):
    include_obfuscation: bool | None = None


def _refused_unless(nothing: Callable[[Any], bool], why: str) -> BeforeValidator:
    """For a parameter of OpenAI's that this server does not have: values that ask for nothing are taken."""

    def check(value: Any) -> Any:
        if not nothing(value):
            raise PydanticCustomError("unsupported", "{why}", {"why": why})
        return value

    return BeforeValidator(check)


Absent = Annotated[None, _refused_unless(lambda value: value is None, "this server has no such parameter")]
Stateless = Annotated[None, _refused_unless(lambda value: value is None, _STATELESS)]
NotKept = Annotated[Literal[False] | None, _refused_unless(lambda value: not value, _STATELESS)]
NoneOf = Annotated[Literal[0] | None, _refused_unless(lambda value: not value, "this server has no such parameter")]
Encrypted = Annotated[
    list[Literal["reasoning.encrypted_content"]] | None,
    _refused_unless(
        lambda value: value is None or (isinstance(value, list) and set(map(str, value)) <= {"reasoning.encrypted_content"}),
        "nothing more than the response is given",
    ),
]


class ResponseCreate(Body):
    """OpenAI's body. A response is not kept: `previous_response_id`, `conversation`, `store: true` and `background: true` are refused."""

    model_config = examples.shown(model=examples.MODEL, input="I was charged twice.", max_output_tokens=16)

    model: Text = Field(description="A fine-tuned model's id, `program_name.predictor@alias`, or `connection/model`")
    input: Text | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = Field(default=None, description="The system message, before all of `input`")
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolIn | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    truncation: Literal["disabled"] | None = None
    include: Encrypted = None
    store: NotKept = None
    background: NotKept = None
    previous_response_id: Stateless = None
    conversation: Stateless = None
    prompt: Absent = None
    max_tool_calls: Absent = None
    top_logprobs: NoneOf = None
