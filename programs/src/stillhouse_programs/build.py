"""A runnable dspy program from a spec. Nothing a client sent is evaluated: signatures are made of (type, field) pairs only, and a reference
is imported if it may be."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import dspy
import pydantic
from pydantic_core import PydanticUndefined

from stillhouse_programs.describe import open_program
from stillhouse_programs.reference import Allowed
from stillhouse_programs.schema_check import SchemaFault
from stillhouse_programs.spec import FieldSpec, FromRef, PredictorSpec, ProgramSpec, Reference, SignatureSpec, StepSpec, ValueRef, expand
from stillhouse_programs.spec_checks import INPUT
from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.types import schema_to_type

_NAME_PARTS = re.compile(r"[^.\[\]]+|\[\d+\]")
_MISSING = object()


def build_program(spec: ProgramSpec, allowed: Allowed = None) -> dspy.Module:
    """Build a program whose `named_predictors()` carry the spec's names.

    A spec of the one predictor `self` becomes a plain `dspy.Predict`; one with a reference is made by the code it names, see
    `reference` for what `allowed` means. Of one that runs in its caller's process there are the predictors alone.

    Raises SpecError for a type that cannot be built and a reference that cannot be used.
    """
    if spec.reference is not None:
        return open_program(spec, allowed)
    expanded = expand(spec)
    if spec.client is not None:
        return ClientParts(expanded)
    if [predictor.name for predictor in expanded.predictors] == ["self"]:
        return build_predictor(expanded.predictors[0], "predictors[0]")
    return SpecProgram(expanded)


def build_predictor(spec: PredictorSpec, path: str) -> dspy.Predict:
    """Build one predictor of an expanded spec; `path` is its place in the spec, for errors."""
    predictor = dspy.Predict(build_signature(spec.signature, f"{path}.signature"), **spec.config.options())
    predictor.demos = [dspy.Example(demo) for demo in spec.demos]
    return predictor


def build_signature(spec: SignatureSpec, path: str) -> Any:
    """Build a `dspy.Signature` of an expanded signature spec."""
    fields = {field.name: _build_field(field, f"{path}.fields[{at}]") for at, field in enumerate(spec.fields)}
    try:
        with warnings.catch_warnings():
            # A field may be called as a method of pydantic's, `copy` for instance.
            warnings.filterwarnings("ignore", "Field name", UserWarning)
            return dspy.Signature(fields, spec.instructions)
    except (pydantic.PydanticUserError, NameError, TypeError, ValueError) as error:
        raise SpecError(f"{path}: {str(error).splitlines()[0]}", path) from None


def _build_field(spec: FieldSpec, path: str) -> tuple[Any, Any]:
    try:
        annotation = schema_to_type(spec.json_schema, spec.name)
        default = {"default": _typed_default(annotation, spec.default)} if spec.has_default else {}
    except SchemaFault as fault:
        raise SpecError(f"field {spec.name}: {fault}", f"{path}.schema") from None
    make = dspy.InputField if spec.role == "input" else dspy.OutputField
    field = make(desc=spec.desc if spec.desc is not None else f"${{{spec.name}}}", **default)
    if spec.constraints is not None:
        field.json_schema_extra["constraints"] = spec.constraints
    return annotation, field


def _typed_default(annotation: Any, value: Any) -> Any:
    if value is None:
        return None
    try:
        return pydantic.TypeAdapter(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        raise SchemaFault(f"the default does not fit: {error.errors()[0]['msg']}") from None


# ------------------------------------------------------------------ programs of several predictors


class Part(dspy.Module):
    """A node on the way to a predictor: `classify` of `classify.predict`."""


class SpecProgram(dspy.Module):
    """Runs the steps of a spec in order, with `forward` and `aforward`; predictors are attributes under their own names."""

    def __init__(self, spec: ProgramSpec) -> None:
        super().__init__()
        self._spec_steps = tuple(spec.steps or ())
        self._spec_outputs = dict(spec.outputs or {})
        for number, predictor in enumerate(spec.predictors):
            _place(self, name_parts(predictor.name), build_predictor(predictor, f"predictors[{number}]"))

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program. Raises TypeError if an input is missing; inputs that no step asks for are left alone."""
        values: dict[str, Any] = {INPUT: inputs}
        for step in self._spec_steps:
            values[step.id] = predictor_at(self, step.predictor)(**self._arguments(step, values))
        return self._prediction(values)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program without blocking; the same as `forward` otherwise."""
        values: dict[str, Any] = {INPUT: inputs}
        for step in self._spec_steps:
            values[step.id] = await predictor_at(self, step.predictor).acall(**self._arguments(step, values))
        return self._prediction(values)

    def _arguments(self, step: StepSpec, values: Mapping[str, Any]) -> dict[str, Any]:
        defaults = {name: field.default for name, field in predictor_at(self, step.predictor).signature.input_fields.items()}
        arguments = {name: resolve(reference, values, optional=_is_given(defaults, name)) for name, reference in step.args.items()}
        return {name: value for name, value in arguments.items() if value is not _MISSING}

    def _prediction(self, values: Mapping[str, Any]) -> dspy.Prediction:
        return dspy.Prediction(**{name: resolve(reference, values) for name, reference in self._spec_outputs.items()})


class ClientParts(dspy.Module):
    """The predictors of a program whose code its caller has, under the names that they have there: they render, the whole does not run."""

    def __init__(self, spec: ProgramSpec) -> None:
        super().__init__()
        self._named = {each.name: build_predictor(each, f"predictors[{number}]") for number, each in enumerate(spec.predictors)}

    def named_parameters(self) -> list[tuple[str, dspy.Predict]]:
        """The predictors: a name such as `by['x']` is of the caller's own containers, which are not here."""
        return list(self._named.items())

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Raises TypeError."""
        raise TypeError("this program runs in the process of its caller, who has the code")

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Raises TypeError."""
        return self.forward(**inputs)


def _is_given(defaults: Mapping[str, Any], name: str) -> bool:
    return defaults[name] is not PydanticUndefined


def resolve(reference: Reference, values: Mapping[str, Any], optional: bool = False) -> Any:
    """Return the value of a reference among the inputs and the results of earlier steps.

    With `optional`, an input that was not given is left out of the call, so that the field's default counts.
    """
    if isinstance(reference, ValueRef):
        return reference.value
    if isinstance(reference, FromRef):
        return _follow(reference, values, optional)
    return "".join(part if isinstance(part, str) else str(_follow(part, values)) for part in reference.template)


def _follow(reference: FromRef, values: Mapping[str, Any], optional: bool = False) -> Any:
    source, name, *rest = reference.parts
    if source == INPUT and name not in values[INPUT]:
        if optional and not rest:
            return _MISSING
        raise TypeError(f"missing required input: {name!r}")
    value = values[source]
    for key in (name, *rest):
        value = value[key] if isinstance(value, (Mapping, dspy.Example, dspy.Prediction)) else getattr(value, key)
    return value


def name_parts(name: str) -> list[str | int]:
    """Split a predictor's name: `hops[0].predict` becomes `["hops", 0, "predict"]`."""
    return [int(part[1:-1]) if part[0] == "[" else part for part in _NAME_PARTS.findall(name)]


def predictor_at(program: dspy.Module, name: str) -> dspy.Predict:
    """Return the predictor of a SpecProgram by its name."""
    node: Any = program
    for part in name_parts(name):
        node = node[part] if isinstance(part, int) else getattr(node, part)
    return node


def _place(program: dspy.Module, parts: list[str | int], predictor: dspy.Predict) -> None:
    node: Any = program
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        child = predictor if following is None else [] if isinstance(following, int) else Part()
        if isinstance(part, int):
            if len(node) == part:
                node.append(child)
            node = node[part]
        else:
            node = node.__dict__.setdefault(part, child)
