"""What can be said of a program before it has run: the messages of its predictors, and the types of what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dspy

from stillhouse_programs.collect import Prepared
from stillhouse_programs.native import stands_for
from stillhouse_programs.prompts import CannotRender, Message, render
from stillhouse_programs.spec import FromRef, ProgramSpec, Reference, ValueRef, expand

_INPUT = "input"


def render_messages(spec: ProgramSpec, prepared: Prepared, inputs: Mapping[str, Any]) -> dict[str, list[Message]]:
    """The messages that each predictor would send, at its first step. A value that comes from an LM stands as `{step.field}`.

    Raises CannotRender.
    """
    predictors = dict(prepared.program.named_predictors())
    if spec.code is not None:
        return {name: _alone(prepared, name, predictor, inputs) for name, predictor in predictors.items()}
    messages: dict[str, list[Message]] = {}
    for step in expand(spec).steps or []:
        predictor = predictors[step.predictor]
        known = {name: _preview(reference, inputs) for name, reference in step.args.items()}
        given = {name: value for name, value in known.items() if value is not _NOT_GIVEN}
        if step.predictor not in messages:
            messages[step.predictor] = _messages(prepared.prompt_adapter, step.predictor, predictor, given)
    return messages


def _messages(prompt_adapter: dspy.Adapter, name: str, predictor: dspy.Predict, given: Mapping[str, Any]) -> list[Message]:
    try:
        return render(prompt_adapter, predictor, predictor.lm, predictor.demos, given).messages
    except CannotRender as fault:
        raise CannotRender(f"predictor {name}: {fault}") from fault


def _alone(prepared: Prepared, name: str, predictor: dspy.Predict, inputs: Mapping[str, Any]) -> list[Message]:
    """Of a predictor that code calls: inputs of the program go into fields of the same name, all else stands as `{predictor.field}`."""
    known = {field: inputs[field] for field in predictor.signature.input_fields if field in inputs}
    for field, info in predictor.signature.input_fields.items():
        known.setdefault(field, stands_for(info.annotation, "{" + f"{name}.{field}" + "}"))
    try:
        return _messages(prepared.prompt_adapter, name, predictor, known)
    except CannotRender:
        # Braces are no value of every type, of an image for instance; such a field is left out.
        texts = {field: known[field] for field, info in predictor.signature.input_fields.items() if info.annotation is str}
        return _messages(prepared.prompt_adapter, name, predictor, texts)


_NOT_GIVEN = object()


def _preview(reference: Reference, inputs: Mapping[str, Any]) -> Any:
    if isinstance(reference, ValueRef):
        return reference.value
    if isinstance(reference, FromRef):
        return _follow(reference, inputs)
    return "".join(part if isinstance(part, str) else str(_follow(part, inputs)) for part in reference.template)


def _follow(reference: FromRef, inputs: Mapping[str, Any]) -> Any:
    source, name, *rest = reference.parts
    if source != _INPUT:
        return "{" + reference.from_ + "}"
    value: Any = inputs.get(name, _NOT_GIVEN)
    for key in rest:
        value = value[key] if isinstance(value, Mapping) and key in value else "{" + reference.from_ + "}"
    return value


def output_types(program: dspy.Module, spec: ProgramSpec) -> dict[str, Any]:
    """The declared type of each returned field that is one field of one step."""
    predictors = dict(program.named_predictors())
    if spec.code is not None:
        return _agreed_types(predictors.values())
    expanded = expand(spec)
    types = {}
    for name, reference in (expanded.outputs or {}).items():
        parts = reference.parts if isinstance(reference, FromRef) else []
        step = expanded.step(parts[0]) if len(parts) == 2 else None
        info = predictors[step.predictor].signature.output_fields.get(parts[1]) if step else None
        if info is not None:
            types[name] = info.annotation
    return types


def _agreed_types(predictors: Iterable[dspy.Predict]) -> dict[str, Any]:
    """What code returns under the name of a predictor's output most likely is that output; where their types differ, none is taken."""
    types: dict[str, Any] = {}
    for predictor in predictors:
        for name, info in predictor.signature.output_fields.items():
            types[name] = info.annotation if types.get(name, info.annotation) == info.annotation else None
    return types
