"""Training rows: a stored call rendered as the student will send and answer it, and read back before it is taken.

Demos in a row are the demos the student runs with after it is compiled, by `demos` of the job, for rows and program alike:

- `keep`: all demos of the student's predictor. An incomplete demo among them rejects the row: dspy would render an assistant turn
  of "Not supplied for this particular example." from it.
- `auto`: the complete demos, those with a value for every field; incomplete ones are left out, of the program too. A job whose trial
  shows that the student is better without them goes on as `drop`.
- `drop`: none.

`spec.with_demos` is the same for a spec.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic

from stillhouse_programs import native, prompts
from stillhouse_programs.spec import DemosMode


@dataclass(frozen=True)
class Row:
    """One training row: the prompt's messages, and the one assistant message that the loss is on.

    `tools` are those that go with the request, in OpenAI's shape, where the student calls them natively.
    """

    predictor: str
    prompt: list[prompts.Message]
    completion: list[prompts.Message]
    tools: list[dict[str, Any]] | None = None

    def as_json(self) -> dict[str, Any]:
        """`prompt`, `completion` and, where there are some, `tools`."""
        return {"prompt": self.prompt, "completion": self.completion, **({"tools": self.tools} if self.tools else {})}

    @property
    def digest(self) -> str:
        """`v1:` + SHA-256 of the row as compact JSON."""
        text = json.dumps(self.as_json(), ensure_ascii=False, separators=(",", ":"))
        return "v1:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Rejection:
    """Why a call gives no row.

    `reason` is one of discarded, override, unparsable, foreign_predictor, missing_input, missing_output, output_type, incomplete_demo,
    cannot_render, not_text, not_round_trip.
    """

    reason: str
    message: str


class _Rejected(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(reason, message)


def render_row(
    program: dspy.Module, predictor_name: str, call: Mapping[str, Any], prompt_adapter: dspy.Adapter, demos: DemosMode | None = None
) -> Row | Rejection:
    """Render one call of a trace, `{"inputs", "outputs", "overrides"}`, as a row for the predictor of that name in `program`, the student.

    The student's signature, instructions, demos and LM options count, not those of the teacher that made the call.
    """
    predictor = dict(program.named_predictors()).get(predictor_name)
    try:
        if predictor is None:
            raise _Rejected("foreign_predictor", f"the student has no predictor {predictor_name}")
        _check_call(call)
        kept = student_demos(predictor, demos)
        rendered = prompts.render(prompt_adapter, predictor, predictor.lm, kept, _inputs(predictor.signature, call["inputs"]))
        answer = _completion(prompt_adapter, predictor, rendered, call["outputs"])
        *prompt, completion = native.numbered([*_text_messages(rendered.messages), answer])
        return Row(predictor_name, prompt, [completion], rendered.options.get("tools"))
    except _Rejected as rejected:
        return rejected.rejection
    except prompts.CannotRender as fault:
        return Rejection("cannot_render", str(fault))
    except IncompleteDemo as incomplete:
        return Rejection("incomplete_demo", str(incomplete))


def _check_call(call: Mapping[str, Any]) -> None:
    if call.get("discarded"):
        raise _Rejected("discarded", "the program threw this answer away: another attempt was better")
    if call.get("overrides"):
        names = ", ".join(call["overrides"])
        raise _Rejected("override", f"the call was made with another {names} than the predictor's own")
    if not isinstance(call.get("outputs"), Mapping):
        raise _Rejected("unparsable", "the answer of this call could not be read")


def _inputs(signature: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name, field in signature.input_fields.items() if name not in inputs and not prompts.may_be_left_out(field)]
    if missing:
        raise _Rejected("missing_input", f"the call has no input `{missing[0]}`, which the student's predictor asks for")
    return native.restored(signature, {name: inputs[name] for name in signature.input_fields if name in inputs})


def _completion(
    prompt_adapter: dspy.Adapter, predictor: dspy.Predict, rendered: prompts.Rendered, outputs: Mapping[str, Any]
) -> prompts.Message:
    """The assistant message that the student is to write: text alone, or native tool calls and reasoning beside it."""
    if len(rendered.signature.output_fields) == len(predictor.signature.output_fields):
        written = prompts.answered(prompt_adapter, rendered.signature)
        return {"role": "assistant", "content": _answer(prompt_adapter, written, _typed_outputs(written, outputs))}
    return _native_answer(prompt_adapter, predictor, rendered, outputs)


def _native_answer(
    prompt_adapter: dspy.Adapter, predictor: dspy.Predict, rendered: prompts.Rendered, outputs: Mapping[str, Any]
) -> prompts.Message:
    """Beside tool calls, text is left out for fields that have none, as LMs do; the whole is read back as dspy reads it after a call."""
    moved = {name: info for name, info in predictor.signature.output_fields.items() if name not in rendered.signature.output_fields}
    values = {name: _typed(name, info.annotation, outputs[name]) for name, info in moved.items() if outputs.get(name) is not None}
    calls = next((value for value in values.values() if isinstance(value, dspy.ToolCalls)), None)
    written = prompts.answered(prompt_adapter, rendered.signature)
    for name in written.output_fields if calls is not None and calls.tool_calls else ():
        written = written if outputs.get(name) is not None else written.delete(name)
    texts = _typed_outputs(written, outputs)
    content = prompts.render_answer(prompt_adapter, written, texts) if texts else ""
    if not content and "tool_calls" not in native.answer_message("", calls, None):
        raise _Rejected("missing_output", "the call has neither text nor tool calls")
    reasoning = next((value.content for value in values.values() if isinstance(value, dspy.Reasoning)), None)
    message = native.answer_message(content, calls, reasoning)
    try:
        read = prompts.read_native(prompt_adapter, rendered, predictor, message)
    except prompts.Unparsable as error:
        raise _Rejected("not_round_trip", f"the prompt adapter cannot read the answer back: {error}") from None
    _check_same({**dict.fromkeys(prompts.answered(prompt_adapter, predictor.signature).output_fields), **texts, **values}, read)
    return message


def _typed_outputs(signature: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    typed = {}
    for name, field in signature.output_fields.items():
        if name not in outputs:
            raise _Rejected("missing_output", f"the call has no output `{name}`, which the student's predictor gives")
        typed[name] = _typed(name, field.annotation, outputs[name])
    return typed


def _typed(name: str, annotation: Any, value: Any) -> Any:
    try:
        return _reader(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise _Rejected("output_type", f"output `{name}` does not fit the student's type: {reason}") from None


@functools.lru_cache(maxsize=512)
def _reader(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _answer(prompt_adapter: dspy.Adapter, signature: Any, outputs: Mapping[str, Any]) -> str:
    """Render the answer and read it back: a row must teach nothing that the prompt adapter would read otherwise."""
    answer = prompts.render_answer(prompt_adapter, signature, outputs)
    try:
        read = prompts.parse(prompt_adapter, signature, answer)
    except prompts.Unparsable as error:
        raise _Rejected("not_round_trip", f"the prompt adapter cannot read the answer back: {error}") from None
    _check_same(outputs, read)
    return answer


def _check_same(outputs: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    changed = [name for name in outputs if not _same(outputs[name], read[name])]
    if changed:
        message = f"output `{changed[0]}` is read back as {_short(read[changed[0]])}, not {_short(outputs[changed[0]])}"
        raise _Rejected("not_round_trip", message)


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, dspy.ToolCalls) and isinstance(two, dspy.ToolCalls):
        return native.calls_said(one) == native.calls_said(two)
    return type(one) is type(two) and bool(one == two or (one != one and two != two))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _text_messages(messages: Sequence[prompts.Message]) -> list[prompts.Message]:
    if not all(isinstance(message.get("content"), str) or message.get("tool_calls") for message in messages):
        raise _Rejected("not_text", "the prompt holds images or other parts that are not text")
    kept = ("role", "content", "tool_calls", "tool_call_id", "name")
    return [{**{name: message[name] for name in kept if name in message}, "content": message.get("content") or ""} for message in messages]


# ------------------------------------------------------------------ demos


class IncompleteDemo(ValueError):
    """`demos: "keep"` with a demo that lacks a field."""


def student_demos(predictor: dspy.Predict, mode: DemosMode | None = None) -> list[Any]:
    """Return the demos a predictor runs and is trained with; None is `auto`. Raises IncompleteDemo under `keep`."""
    if mode == "drop":
        return []
    complete = [demo for demo in predictor.demos if _is_complete(demo, predictor.signature)]
    if mode == "keep" and len(complete) < len(predictor.demos):
        number = next(at for at, demo in enumerate(predictor.demos) if not _is_complete(demo, predictor.signature))
        raise IncompleteDemo(f"demo {number + 1} lacks a field; use demos: auto to leave out incomplete demos")
    return complete


def _is_complete(demo: Any, signature: Any) -> bool:
    return all(name in demo and demo[name] is not None for name in signature.fields)
