"""The wire: what a chat completion request may say, checked by pydantic, and the OpenAI-shaped replies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from engines.lmhost.errors import HostError, bad_request

MAX_SAMPLES = 64
Text = Annotated[str, StringConstraints(min_length=1)]


class TextPart(BaseModel):
    """One text part of a message's content."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One chat message; only text."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def rendered(self) -> dict[str, str]:
        """The message as chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StructuredOutputs(BaseModel):
    """A constraint on the answer: exactly one kind."""

    model_config = ConfigDict(extra="forbid")
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    regex: Text | None = None
    json_schema: dict[str, Any] | str | None = Field(default=None, alias="json")
    grammar: Text | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> StructuredOutputs:
        if len(self.kinds()) != 1:
            raise ValueError("give exactly one of choice, regex, json, grammar")
        return self

    def kinds(self) -> list[tuple[str, Any]]:
        """The kinds that are given, with their values."""
        pairs = [("choice", self.choice), ("regex", self.regex), ("json", self.json_schema), ("grammar", self.grammar)]
        return [(kind, value) for kind, value in pairs if value is not None]


class JsonSchema(BaseModel):
    """OpenAI's named schema."""

    model_config = ConfigDict(extra="forbid")
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(BaseModel):
    """OpenAI's response_format."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to type json_schema")
        return self

    def kinds(self) -> list[tuple[str, Any]]:
        """The constraint it stands for, if any."""
        if self.type == "text":
            return []
        return [("json", self.json_schema.schema_ if self.json_schema else {"type": "object"})]


class StreamOptions(BaseModel):
    """OpenAI's stream_options."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """A chat completion request. Fields that would change the answer and that this host does not know are refused."""

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None
    # Values that ask for nothing are taken from clients that always send them.
    logprobs: Literal[False] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    # These never change an answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _one_constraint(self) -> ChatRequest:
        if self.structured_outputs and self.response_format and self.response_format.kinds():
            raise ValueError("structured_outputs and response_format exclude each other")
        return self

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def constraint(self) -> tuple[str, Any, str] | None:
        """(kind, value, field) of what the answer must obey."""
        for field, source in (("structured_outputs", self.structured_outputs), ("response_format", self.response_format)):
            for kind, value in source.kinds() if source else []:
                return kind, value, field
        return None


class LoadLora(BaseModel):
    """vLLM's body of /v1/load_lora_adapter."""

    model_config = ConfigDict(extra="ignore")
    lora_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=200)]
    lora_path: Text


class UnloadLora(BaseModel):
    """vLLM's body of /v1/unload_lora_adapter."""

    model_config = ConfigDict(extra="ignore")
    lora_name: Text


def invalid(error: ValidationError) -> HostError:
    """pydantic's first complaint as an OpenAI-shaped 400."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"] if not _is_variant(part)) or None
    if first["type"] == "extra_forbidden":
        return bad_request(f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    return bad_request(f"{param or 'body'}: {first['msg']}", param)


def _is_variant(part: int | str) -> bool:
    """pydantic names the member of a union in the location; callers do not know these names."""
    return isinstance(part, str) and ("[" in part or part in {"str", "constrained-str"})


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    details = {"cached_tokens": cached}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }
