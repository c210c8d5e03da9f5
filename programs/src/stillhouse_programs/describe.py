"""The spec of a program that runs by its own code: its predictors as they are, the inputs of its `forward`, and the source it came from."""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dspy
import pydantic

from stillhouse_programs import prompts, reference
from stillhouse_programs.derive import DEFAULT_LM
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.schema_values import value_fault
from stillhouse_programs.spec import GenerationConfig, PredictorSpec, ProgramSpec, expand, parse_spec
from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.spec_models import nearest
from stillhouse_programs.spec_reference import ReferenceFault
from stillhouse_programs.types import schema_to_type, type_name, type_to_schema, type_to_shown_schema

SchemaOf = Callable[[Any], dict[str, Any]]
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MARKS = frozenset({"augmented"})


def describe(
    target: str,
    kwargs: Mapping[str, Any],
    lms: Mapping[str, str],
    inputs: list[Any] | None,
    allowed: reference.Allowed,
    bundle: str = "",
) -> ProgramSpec:
    """Make the program once, in freshly imported code, and return its spec, expanded.

    `lms` maps predictors to LM roles, `student` where it names none; `inputs` replaces what `forward` says of its parameters.
    Raises ReferenceFault, and SpecError for predictors that no spec can describe.
    """
    reference.forget(target)
    program = reference.make_program(target, kwargs, allowed, bundle)
    predictors = dict(program.named_predictors())
    for name in lms:
        if name not in predictors:
            raise SpecError(f"lms.{name}: the program has no predictor `{name}`{nearest(name, list(predictors))}", f"lms.{name}")
    body = {
        "spec_version": 1,
        "predictors": [predictor_body(name, each, lms.get(name, DEFAULT_LM)) for name, each in predictors.items()],
        "reference": {
            "target": target,
            "kwargs": dict(kwargs),
            "inputs": _inputs(program) if inputs is None else [{"name": each} if isinstance(each, str) else each for each in inputs],
            "source": reference.source_of(target),
            "bundle": bundle,
        },
    }
    return expand(parse_spec(body))


def open_program(spec: ProgramSpec, allowed: reference.Allowed) -> dspy.Module:
    """Make the program of a spec that was described before, with the demos of that spec.

    Raises ReferenceFault if it cannot be made, if its source is another now, or if its predictors are.
    """
    if spec.reference is None:
        raise SpecError("the spec has no reference", "reference")
    target = spec.reference.target
    program = reference.make_program(target, spec.reference.kwargs, allowed, spec.reference.bundle)
    if allowed is None or not spec.reference.bundle:
        reference.check_source(spec.reference, target, allowed)
    predictors = dict(program.named_predictors())
    known = {predictor.name: predictor for predictor in expand(spec).predictors}
    if list(predictors) != list(known):
        raise _differs(target, f"the predictors {', '.join(predictors)}", ", ".join(known))
    for name, predictor in predictors.items():
        here, there = list(predictor.signature.fields), [field.name for field in known[name].signature.fields]
        if here != there:
            raise _differs(target, f"predictor {name} with the fields {', '.join(here)}", ", ".join(there))
    take_demos(program, spec)
    return program


def take_demos(program: dspy.Module, spec: ProgramSpec) -> None:
    """Give a live program the demos of a spec with the same predictors."""
    known = {predictor.name: predictor for predictor in spec.predictors}
    for name, predictor in program.named_predictors():
        predictor.demos = _chosen(predictor, known[name])


def _differs(target: str, here: str, there: str) -> ReferenceFault:
    return ReferenceFault("reference_differs", f"{target} made {here}; described are {there}", "reference.target")


# ------------------------------------------------------------------ predictors


def predictor_body(name: str, predictor: dspy.Predict, role: str, schema_of: SchemaOf | None = None) -> dict[str, Any]:
    """What a spec says of a live predictor. What JSON cannot say of it (a type with validators, a callback) stays in the code."""
    signature = predictor.signature
    body: dict[str, Any] = {
        "name": name,
        "lm": role,
        "signature": {
            "instructions": signature.instructions,
            "fields": [_field(each, info, schema_of or _schema) for each, info in signature.fields.items()],
        },
    }
    config = {option: value for option, value in predictor.config.items() if _is_option(option, value)}
    if config:
        body["config"] = config
    if predictor.demos:
        body["demos"] = _demos(name, predictor)
    return body


def _is_option(option: str, value: Any) -> bool:
    try:
        GenerationConfig.model_validate({option: value})
    except pydantic.ValidationError:
        return False
    return True


def _field(name: str, info: Any, schema_of: SchemaOf) -> dict[str, Any]:
    extra = info.json_schema_extra
    body = {"name": name, "role": extra["__dspy_field_type"], "schema": schema_of(info.annotation), "desc": extra["desc"]}
    if not info.is_required():
        default = _plain(info.get_default(call_default_factory=True))
        if default is None or value_fault(default, body["schema"]) is None:
            body["default"] = default
    if extra.get("constraints"):
        body["constraints"] = extra["constraints"]
    return body


def _schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type; that of any value where none would come back the same."""
    try:
        return type_to_schema(annotation)
    except NotASpec:
        return {}


def shown_schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type as a prompt shows it. Raises NotASpec for a type that no schema stands for in a prompt."""
    schema = type_to_shown_schema(annotation)
    before, after = prompts.annotation_name(annotation), prompts.annotation_name(schema_to_type(schema, type_name(annotation)))
    if before != after:
        raise NotASpec(f"the type {before} would come back as {after}")
    return schema


def _plain(value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    except (pydantic.PydanticUserError, ValueError):
        return None


def _demos(name: str, predictor: dspy.Predict) -> list[dict[str, Any]]:
    """The demos, as far as the signature knows their fields: a prompt shows no more of them."""
    return [_demo(name, dict(demo), predictor.signature.fields.keys() | _MARKS) for demo in predictor.demos]


def _demo(name: str, demo: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    kept = {key: value for key, value in demo.items() if key in known}
    plain = {key: _plain(value) for key, value in kept.items()}
    lost = [key for key, value in kept.items() if value is not None and plain[key] is None]
    if lost:
        raise SpecError(f"predictor {name}: the field {lost[0]} of a demo cannot travel as JSON", "reference")
    return plain


def _chosen(predictor: dspy.Predict, spec: PredictorSpec) -> list[Any]:
    """The demos of a spec: the program's own ones where it still has them, since those have types."""
    own = list(zip(_demos(spec.name, predictor), predictor.demos, strict=True))
    chosen = []
    for demo in spec.demos:
        found = next((at for at, (plain, _) in enumerate(own) if plain == demo), None)
        chosen.append(dspy.Example(demo) if found is None else own.pop(found)[1])
    return chosen


# ------------------------------------------------------------------ inputs


def _inputs(program: dspy.Module) -> list[dict[str, Any]]:
    """The parameters of `forward`. Raises SpecError where it takes any name and nothing says which it wants."""
    run = _run_of(program)
    parameters = list(inspect.signature(run).parameters.values())
    hints = _hints(run)
    named = [_input(each.name, hints.get(each.name, Any), each.default is each.empty) for each in parameters if each.kind in _NAMED]
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return named
    known = {each["name"] for each in named}
    behind = [each for each in _behind(program) if each["name"] not in known]
    if not named and not behind:
        raise SpecError(f"forward of {type(program).__name__} takes any name: say which inputs it wants in `inputs`", "inputs")
    return named + behind


def _run_of(program: dspy.Module) -> Callable[..., Any]:
    for name in ("forward", "aforward"):
        run = getattr(program, name, None)
        if callable(run):
            return typing.cast("Callable[..., Any]", run)
    raise SpecError(f"{type(program).__name__} has neither forward nor aforward", "reference")


def _behind(program: dspy.Module) -> list[dict[str, Any]]:
    """The inputs of what `**kwargs` are passed on to: a wrapped program, a signature of its own, or its one predictor."""
    if isinstance(inner := getattr(program, "module", None), dspy.Module):
        return _inputs(inner)
    predictors = program.named_predictors()
    signature = getattr(program, "signature", None) or (predictors[0][1].signature if len(predictors) == 1 else None)
    fields = getattr(signature, "input_fields", {})
    return [_input(name, info.annotation, info.is_required()) for name, info in fields.items()]


def _input(name: str, annotation: Any, required: bool) -> dict[str, Any]:
    schema = {} if annotation is Any else _schema(annotation)
    return {"name": name, "schema": schema, "required": required}


def _hints(run: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(run)
    except (NameError, TypeError):
        return {}
