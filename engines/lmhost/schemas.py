"""The wire: what a chat completion request may say, checked by pydantic, and the OpenAI-shaped replies."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from engines.chat_template import for_template
from engines.lmhost.errors import HostError, bad_request

MAX_SAMPLES = 64
MAX_TOP_LOGPROBS = 20
Text = Annotated[str, StringConstraints(min_length=1)]


class TextPart(BaseModel):
    """One text part of a message's content."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    """A tool's name, and its arguments as the text of a JSON object."""

    model_config = ConfigDict(extra="forbid")
    name: Text
    arguments: str


class ToolCall(BaseModel):
    """One call that an assistant made."""

    model_config = ConfigDict(extra="forbid")
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(BaseModel):
    """One chat message: text, an assistant's tool calls, or what a tool returned."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to an assistant's message")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool's message names its call in tool_call_id")
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        return self

    def rendered(self) -> dict[str, Any]:
        """The message as chat templates take it. Raises ValueError for a tool call whose arguments are no object."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        said = {**self.model_dump(exclude_none=True), "content": content}
        return for_template({**said, "role": "system" if self.role == "developer" else self.role})


class Function(BaseModel):
    """What a request says of a tool."""

    model_config = ConfigDict(extra="forbid")
    name: Text
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Offered(BaseModel):
    """One tool of a request."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["function"]
    function: Function


def _as_sent(tool: dict[str, Any]) -> dict[str, Any]:
    Offered.model_validate(tool)
    return tool


#: Checked, and kept with its keys in the caller's order: the chat template writes them into the prompt.
Tool = Annotated[dict[str, Any], AfterValidator(_as_sent)]


class NamedFunction(BaseModel):
    """A tool by its name."""

    model_config = ConfigDict(extra="forbid")
    name: str


class NamedTool(BaseModel):
    """The tool that is to be called."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["function"]
    function: NamedFunction


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


class AnswerRequest(BaseModel):
    """What all requests for answers may say. Fields that would change the answer and that this host does not know are refused."""

    model_config = ConfigDict(extra="forbid")
    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None
    # The parameters that are absent: values that ask for nothing are taken from clients that always send them.
    absent: ClassVar[frozenset[str]] = frozenset({"presence_penalty", "frequency_penalty", "logit_bias"})
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # These never change an answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        if self.structured_outputs and self.response_format and self.response_format.kinds():
            raise ValueError("structured_outputs and response_format exclude each other")
        return self

    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell beside each of an answer; None asks for no log-probabilities."""
        return None

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def constraint(self) -> tuple[str, Any, str] | None:
        """(kind, value, field) of what the answer must obey."""
        for field, source in (("structured_outputs", self.structured_outputs), ("response_format", self.response_format)):
            for kind, value in source.kinds() if source else []:
                return kind, value, field
        return None


class CompletionRequest(AnswerRequest):
    """A text completion request: one prompt or several, each a text or its tokens."""

    absent = AnswerRequest.absent | {"logprobs"}
    logprobs: Literal[False] | None = None
    prompt: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1)]

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if len(self.prompts()) * (self.n or 1) > MAX_SAMPLES:
            raise ValueError(f"prompt: at most {MAX_SAMPLES} answers are made at once, over all prompts")
        return self

    def prompts(self) -> list[str | list[int]]:
        """Each as it was sent."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        given: list[Any] = list(self.prompt)
        return [given] if isinstance(given[0], int) else given


class ChatRequest(AnswerRequest):
    """A chat completion request."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _logprobs_wanted(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        return self

    def likeliest(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @model_validator(mode="after")
    def _known_tool(self) -> Self:
        names = [tool["function"]["name"] for tool in self.tools or []]
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names no tool of the request; these are {', '.join(names)}")
        if self.offered() and self.constraint() is not None:
            raise ValueError("tools exclude structured_outputs and response_format")
        return self

    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    def demanded(self) -> list[dict[str, Any]]:
        """The tools of which one must be called; none where the model chooses."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.offered() if tool["function"]["name"] == self.tool_choice.function.name]
        return self.offered() if self.tool_choice == "required" else []


class LoadLora(BaseModel):
    """vLLM's body of /v1/load_lora_adapter."""

    model_config = ConfigDict(extra="ignore")
    lora_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=200)]
    lora_path: Text


class UnloadLora(BaseModel):
    """vLLM's body of /v1/unload_lora_adapter."""

    model_config = ConfigDict(extra="ignore")
    lora_name: Text


def invalid(error: ValidationError, absent: frozenset[str] = frozenset()) -> HostError:
    """pydantic's first complaint as an OpenAI-shaped 400; ``absent`` are parameters of OpenAI's that the route does not have."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"] if not _is_variant(part)) or None
    if first["type"] == "extra_forbidden" or str(first["loc"][:1] and first["loc"][0]) in absent:
        return bad_request(f"This host has no {param}.", param, "unsupported_parameter")
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
