"""Prompts and answers: the one place that touches the inside of dspy's prompt adapters.

A prompt is rendered by the same planning that dspy does at run time, so that a training row and a later call have equal bytes.
"""

import contextlib
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import dspy
import pydantic
from dspy.adapters.baml_adapter import BAMLAdapter
from dspy.adapters.types import Type as DspyType
from dspy.adapters.utils import annotation_allows_none, apply_output_field_defaults, get_annotation_name, parse_value
from pydantic_core import PydanticUndefined

from stillhouse_programs.compact import CompactAdapter
from stillhouse_programs.spec import PromptAdapterSpec, SpecError, no_prompt_adapter, parse_prompt_adapter
from stillhouse_programs.types import is_union

Message = dict[str, Any]


class Unparsable(ValueError):
    """An answer that the prompt adapter cannot read."""


class CannotRender(ValueError):
    """A prompt that the prompt adapter cannot write, for the types in its signature or the inputs it was given."""


# ------------------------------------------------------------------ prompt adapters


class _SystemMessageOnce:
    """Renders what depends on the signature alone once per signature: dspy builds it anew for every call. The bytes are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._texts: WeakKeyDictionary[Any, dict[str, tuple[Any, str]]] = WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_SystemMessageOnce":
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_texts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _texts=WeakKeyDictionary())

    def format(self, signature: Any, demos: Sequence[Any], inputs: Mapping[str, Any]) -> Any:
        typed = [with_dspy_types(signature, demo) for demo in demos]
        return super().format(signature, typed, with_dspy_types(signature, inputs))  # type: ignore[misc]  # mixed into a prompt adapter

    def format_system_message(self, signature: Any) -> str:
        return self._once("system", signature, super().format_system_message)  # type: ignore[misc]  # mixed into a prompt adapter

    def user_message_output_requirements(self, signature: Any) -> str:
        return self._once("output", signature, super().user_message_output_requirements)  # type: ignore[misc]

    def _once(self, key: str, signature: Any, make: Callable[[Any], str]) -> str:
        texts = self._texts.setdefault(signature, {})
        # Instructions and descriptions of a signature can be changed in place.
        stamp = (signature.instructions, [field.json_schema_extra for field in signature.fields.values()])
        known = texts.get(key)
        if known is None or known[0] != stamp:
            known = texts[key] = ((stamp[0], [dict(extra) for extra in stamp[1]]), make(signature))
        return known[1]


class _PlainInputs(_SystemMessageOnce):
    """Writes inputs that are plain text without dspy's detour over pydantic. The bytes are the same."""

    def format_user_message_content(
        self, signature: Any, inputs: Mapping[str, Any], prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        given = [(name, inputs[name]) for name in signature.input_fields if name in inputs]
        if not all(type(value) is str for _, value in given):
            return str(super().format_user_message_content(signature, inputs, prefix, suffix, main_request))  # type: ignore[misc]
        parts = [prefix, *(f"[[ ## {name} ## ]]\n{value}" for name, value in given)]
        if main_request:
            parts.append(self.user_message_output_requirements(signature))
        return "\n\n".join([*parts, suffix]).strip()


class FastChatAdapter(_PlainInputs, dspy.ChatAdapter):
    """dspy's ChatAdapter with the same bytes."""


class FastJSONAdapter(_PlainInputs, dspy.JSONAdapter):
    """dspy's JSONAdapter with the same bytes."""


class FastXMLAdapter(_SystemMessageOnce, dspy.XMLAdapter):
    """dspy's XMLAdapter with the same bytes."""


class FastBAMLAdapter(_PlainInputs, BAMLAdapter):
    """dspy's BAMLAdapter with the same bytes, for objects in whatever form they come: a stored call has a dict where the program that
    made it passed an object, and dspy writes only the object on lines of its own."""

    def format_user_message_content(
        self, signature: Any, inputs: Mapping[str, Any], prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        objects = {name: _as_object(inputs[name], info.annotation) for name, info in signature.input_fields.items() if name in inputs}
        return super().format_user_message_content(signature, {**inputs, **objects}, prefix, suffix, main_request)


class FastCompactAdapter(_SystemMessageOnce, CompactAdapter):
    """CompactAdapter for values in whatever form they come."""


def _as_object(value: Any, annotation: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for part in typing.get_args(annotation) if is_union(annotation) else (annotation,):
        if isinstance(part, type) and issubclass(part, pydantic.BaseModel) and not issubclass(part, DspyType):
            with contextlib.suppress(pydantic.ValidationError):
                return part.model_validate(dict(value))
    return value


def make_prompt_adapter(spec: PromptAdapterSpec | Mapping[str, Any] | str | None = None) -> dspy.Adapter:
    """Build a prompt adapter; `chat` if nothing is named. Raises SpecError for an unknown one.

    The fallback to JSON is off: a parse failure is counted, not asked again with another prompt.
    """
    wanted = parse_prompt_adapter(spec)
    options: dict[str, Any] = {} if wanted.native_tools is None else {"use_native_function_calling": wanted.native_tools}
    if wanted.type == "compact":
        chosen = {name: getattr(wanted, name) for name in _COMPACT_OPTIONS if getattr(wanted, name) is not None}
        return FastCompactAdapter(**options, **chosen)
    if wanted.type in _JSON_KINDS:
        return _JSON_KINDS[wanted.type](**options)
    return (FastXMLAdapter if wanted.type == "xml" else FastChatAdapter)(use_json_adapter_fallback=False, **options)


# Both answer with one JSON object, and send tools beside the text unless told otherwise.
_JSON_KINDS: dict[str, Any] = {"json": FastJSONAdapter, "baml": FastBAMLAdapter}
_COMPACT_OPTIONS = ("instructions", "reasoning")


def describe_prompt_adapter(prompt_adapter: dspy.Adapter) -> PromptAdapterSpec:
    """Return the spec of a prompt adapter that a user built. Raises SpecError for one that no spec stands for."""
    kinds = (
        ("xml", (dspy.XMLAdapter, FastXMLAdapter)),
        ("json", (dspy.JSONAdapter, FastJSONAdapter)),
        ("baml", (BAMLAdapter, FastBAMLAdapter)),
        ("chat", (dspy.ChatAdapter, FastChatAdapter)),
        ("compact", (CompactAdapter, FastCompactAdapter)),
    )
    kind = next((name for name, classes in kinds if type(prompt_adapter) in classes), None)
    if kind is None:
        raise SpecError(f"prompt_adapter: {no_prompt_adapter(type(prompt_adapter).__name__)}", "prompt_adapter")
    tools = prompt_adapter.use_native_function_calling
    left_out = {name: False for name in _COMPACT_OPTIONS if kind == "compact" and not getattr(prompt_adapter, name)}
    return PromptAdapterSpec(type=kind, native_tools=None if tools == (kind in _JSON_KINDS) else tools, **left_out)


def annotation_name(annotation: Any) -> str:
    """Return the name that a prompt gives to a type."""
    return str(get_annotation_name(annotation))


def read_value(text: str, annotation: Any) -> Any:
    """Read the text of one field as a type, as dspy does. Raises ValueError."""
    return parse_value(text, annotation)


def may_be_left_out(field: Any) -> bool:
    """Whether a call need not give an input: it has a default, or its type has None, and the prompt then says nothing of it."""
    return not field.is_required() or bool(annotation_allows_none(field.annotation))


def nests_in_xml(annotation: Any) -> bool:
    """Whether the XML prompt adapter writes a type as nested elements, not as text."""
    return bool(dspy.XMLAdapter._uses_nested_xml(annotation))


# ------------------------------------------------------------------ values of dspy's own types


def with_dspy_types(signature: Any, values: Any) -> Any:
    """`values` with images and histories as dspy's objects: in rows, traces and demos they are JSON, which dspy would write as text."""
    kinds = _dspy_fields(signature)
    given = [name for name in kinds if isinstance(values.get(name), str | list | dict)]
    if not given:
        return values
    read = {name: pydantic.TypeAdapter(kinds[name]).validate_python(_with_urls(values[name], kinds[name])) for name in given}
    return {**dict(values), **read}


@functools.lru_cache(maxsize=4096)
def _dspy_fields(signature: Any) -> dict[str, Any]:
    """The inputs of a signature that have one of dspy's own types, or a part of one."""
    fields = {name: field.annotation for name, field in signature.input_fields.items()}
    return {name: kind for name, kind in fields.items() if kind is dspy.History or dspy.Image.extract_custom_type_from_annotation(kind)}


def _with_urls(value: Any, kind: Any) -> Any:
    """`value` with the address of an image where the image itself is meant, as `{"url": …}`."""
    parts = typing.get_args(kind)
    if isinstance(value, str):
        return {"url": value} if kind is dspy.Image or (dspy.Image in parts and str not in parts) else value
    if isinstance(value, list) and parts:
        inner = next((part for part in parts if typing.get_origin(part) is list), kind)
        return [_with_urls(item, typing.get_args(inner)[0]) for item in value]
    if isinstance(value, dict) and parts and typing.get_origin(kind) is dict:
        return {key: _with_urls(item, parts[1]) for key, item in value.items()}
    return value


# ------------------------------------------------------------------ rendering and reading


@dataclass(frozen=True)
class Rendered:
    """The messages of one call, and the signature they were rendered with: that of the predictor less its native fields.

    `options` are what the call sends beside the messages: the predictor's own, and those of native features, as `tools`.
    """

    messages: list[Message]
    signature: Any
    options: dict[str, Any]


class _NoEngine:
    """Stands where an LM's engine stands; rendering needs an LM to plan for, and never calls it."""

    def complete(self, request: Any) -> Any:
        raise RuntimeError("this LM only stands in for one and cannot be called")

    def __deepcopy__(self, memo: dict[int, Any]) -> "_NoEngine":
        return self


@functools.cache
def stand_in_lm() -> dspy.LM:
    """Return the LM without native features and without a server, to render prompts with."""
    return dspy.LM("stillhouse/stand-in", engine=_NoEngine(), cache=False, num_retries=0)


def render(
    prompt_adapter: dspy.Adapter, predictor: dspy.Predict, lm: dspy.LM | None, demos: Sequence[Any], inputs: Mapping[str, Any]
) -> Rendered:
    """Render the messages that `predictor` would send: defaults filled in, and planned for `lm` (a stand-in if None).

    Raises CannotRender.
    """
    signature = predictor.signature
    defaults = {name: field.default for name, field in signature.input_fields.items() if field.default is not PydanticUndefined}
    filled = {**inputs, **{name: value for name, value in defaults.items() if name not in inputs}}
    try:
        options = dict(predictor.config)
        planned = plan(prompt_adapter, lm or stand_in_lm(), options, signature, filled)
        return Rendered(messages_of(prompt_adapter, planned, demos, filled), planned, options)
    except Exception as error:
        # Prompt adapters raise many kinds over a type or a value that they have no form for.
        raise CannotRender(f"{type(prompt_adapter).__name__.removeprefix('Fast')} cannot write this prompt: {error}") from error


def plan(prompt_adapter: dspy.Adapter, lm: dspy.LM, options: dict[str, Any], signature: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the signature that dspy renders with after moving native features into `options`, which it changes."""
    return prompt_adapter._call_preprocess(lm, options, signature, inputs)


def messages_of(prompt_adapter: dspy.Adapter, signature: Any, demos: Sequence[Any], inputs: Mapping[str, Any]) -> list[Message]:
    """Format the messages of a planned call."""
    messages = prompt_adapter.format(signature, list(demos), dict(inputs))
    return [dict(message) if isinstance(message, Mapping) else message.model_dump() for message in messages]


def answered(prompt_adapter: dspy.Adapter, signature: Any) -> Any:
    """Return `signature` with the outputs alone that an answer holds: a compact one may leave the reasoning out."""
    held = prompt_adapter.answer_fields(signature) if isinstance(prompt_adapter, CompactAdapter) else signature.output_fields
    for name in set(signature.output_fields) - set(held):
        signature = signature.delete(name)
    return signature


def render_answer(prompt_adapter: dspy.Adapter, signature: Any, outputs: Mapping[str, Any]) -> str:
    """Return the assistant text that gives `outputs`, in the form the prompt asks for."""
    return str(prompt_adapter.format_assistant_message_content(signature, dict(outputs)))


def parse(prompt_adapter: dspy.Adapter, signature: Any, text: str) -> dict[str, Any]:
    """Read an answer into typed outputs. Raises Unparsable."""
    if not text:
        raise Unparsable("the answer is empty")
    try:
        outputs = prompt_adapter.parse(signature, text)
    except Exception as error:
        # Parsers of dspy and of pydantic raise many kinds; all mean that the text does not say what the signature asks for.
        raise Unparsable(f"{type(error).__name__}: {error}") from error
    return dict(apply_output_field_defaults(signature, outputs))


def read_native(prompt_adapter: dspy.Adapter, rendered: Rendered, predictor: dspy.Predict, message: Message) -> dict[str, Any]:
    """Read an answer that is not text alone, an assistant message in OpenAI's shape, as dspy does after a call. Raises Unparsable."""
    given: Message = {"text": message["content"]}
    given |= {name: message[name] for name in ("tool_calls", "reasoning_content") if name in message}
    lm, options = predictor.lm or stand_in_lm(), dict(rendered.options)
    try:
        return dict(prompt_adapter._call_postprocess(rendered.signature, predictor.signature, [given], lm, options)[0])
    except Exception as error:
        raise Unparsable(f"{type(error).__name__}: {error}") from error
