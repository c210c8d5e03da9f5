"""The rules of a program spec that its shape alone cannot say: names are unique, references lead somewhere, arguments are complete."""

import keyword
from collections.abc import Iterator

from stillhouse_programs.schema_check import SchemaFault, check_schema, dspy_types
from stillhouse_programs.schema_values import value_fault
from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.spec_expand import REASONING
from stillhouse_programs.spec_models import (
    ClientCode,
    FieldSpec,
    FromRef,
    JsonObject,
    PredictorSpec,
    ProgramReference,
    ProgramSpec,
    Reference,
    StepSpec,
    TemplateRef,
    nearest,
)

# Keyword arguments that dspy.Predict takes for itself.
RESERVED_INPUTS = frozenset({"signature", "new_signature", "demos", "config", "lm", "prediction", "self"})
# Attributes that dspy.Module has for itself; a predictor of that name would replace them.
RESERVED_ATTRIBUTES = frozenset({
    "forward", "aforward", "acall", "batch", "callbacks", "deepcopy", "dump_state", "get_lm", "history", "inspect_history", "load",
    "load_state", "map_named_predictors", "named_parameters", "named_predictors", "named_sub_modules", "parameters", "predictors",
    "reset_copy", "save", "set_lm", "_base_init", "_compiled", "_set_lm_usage",
})  # fmt: skip
INPUT = "input"
MAX_PARTS = 10_000
"""Of all types of a program."""


def check_predictors(spec: ProgramSpec) -> None:
    """Check the predictors of a spec as it was written. Raises SpecError with the JSON path of the first fault."""
    _check_unique([predictor.name for predictor in spec.predictors], "predictor", "predictors", "name")
    if spec.code is None:
        _check_tree([predictor.name for predictor in spec.predictors])
    parts = 0
    for number, predictor in enumerate(spec.predictors):
        parts += _check_predictor(predictor, f"predictors[{number}]")
        if parts > MAX_PARTS:
            raise SpecError(f"all types of a program together have at most {MAX_PARTS:,} parts and choices", f"predictors[{number}]")


def check_wiring(spec: ProgramSpec) -> None:
    """Check steps and outputs of an expanded spec whose predictors were checked. Raises SpecError."""
    if spec.code is not None:
        _check_code(spec, spec.code)
        return
    _check_unique([step.id for step in spec.steps or []], "step", "steps", "id")
    _check_wiring(spec)


def _check_code(spec: ProgramSpec, code: ProgramReference | ClientCode) -> None:
    """The wiring of a program that is code: none, only its inputs."""
    word = "reference" if code is spec.reference else "client"
    beside = (("steps", spec.steps), ("outputs", spec.outputs), ("client", spec.client if word == "reference" else None))
    for part, given in beside:
        if given is not None:
            raise SpecError(f"`{part}` cannot stand beside `{word}`: the program runs by its own code", part)
    _check_unique([each.name for each in code.inputs], "input", f"{word}.inputs", "name")
    for number, each in enumerate(code.inputs):
        try:
            check_schema(each.json_schema)
        except SchemaFault as fault:
            raise SpecError(f"input {each.name}: {fault}", f"{word}.inputs[{number}].schema{fault.path}") from None


def references(reference: Reference) -> Iterator[FromRef]:
    """Yield every `from` of a reference, those inside a template included."""
    if isinstance(reference, FromRef):
        yield reference
    elif isinstance(reference, TemplateRef):
        yield from (part for part in reference.template if isinstance(part, FromRef))


def _check_unique(names: list[str], what: str, path: str, key: str) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise SpecError(f"{what} `{name}` stands there twice", f"{path}[{number}].{key}")


def _check_tree(names: list[str]) -> None:
    """Names that a program can be built from: `a` and `a.b` cannot both be predictors, `self` stands alone, list members count up
    from [0]. Programs that run by their own code name their predictors as dspy does."""
    for number, name in enumerate(names):
        if "['" in name:
            message = f"predictor `{name}`: only a program that runs by its own code has predictors in a dict"
            raise SpecError(message, f"predictors[{number}].name")
        inside = [other for other in names if other.startswith((f"{name}.", f"{name}["))]
        if inside:
            raise SpecError(f"predictor `{name}` cannot contain another predictor, `{inside[0]}`", f"predictors[{number}].name")
        if name.split(".")[0].split("[")[0] == "self" and (name != "self" or len(names) > 1):
            raise SpecError("`self` names the one predictor of a program that is a predictor itself", f"predictors[{number}].name")
        _check_parts(name, f"predictors[{number}].name")
        _check_list_member(names, number)


def _check_parts(name: str, path: str) -> None:
    """Predictors are attributes of a dspy.Module, next to its own."""
    for part in name.replace("[", ".[").split("."):
        if part in RESERVED_ATTRIBUTES or part.startswith("__") or part.startswith("_spec_"):
            raise SpecError(f"predictor `{name}`: `{part}` is a name of dspy.Module itself", path)


def _check_list_member(names: list[str], number: int) -> None:
    for stem, _, rest in _subscripts(names[number]):
        position = int(rest)
        if position and not any(other.startswith(f"{stem}[{position - 1}]") for other in names[:number]):
            raise SpecError(f"predictor `{names[number]}` comes before `{stem}[{position - 1}]`", f"predictors[{number}].name")


def _subscripts(name: str) -> Iterator[tuple[str, str, str]]:
    for at, sign in enumerate(name):
        if sign == "[":
            yield name[:at], sign, name[at + 1 : name.index("]", at)]


# ------------------------------------------------------------------ predictors


def _check_predictor(predictor: PredictorSpec, path: str) -> int:
    """Returns how many parts and choices its types have."""
    place = f"{path}.signature.fields"
    names = [field.name for field in predictor.signature.fields]
    _check_unique(names, "field", place, "name")
    if not predictor.signature.of_role("output"):
        raise SpecError(f"predictor {predictor.name} has no output field", place)
    parts = sum(_check_field(predictor, field, f"{place}[{number}]") for number, field in enumerate(predictor.signature.fields))
    known = {*names, "augmented", REASONING} if predictor.type == "ChainOfThought" else {*names, "augmented"}
    for number, demo in enumerate(predictor.demos):
        unknown = [key for key in demo if key not in known]
        if unknown:
            hint = nearest(unknown[0], names)
            raise SpecError(f"demo: predictor {predictor.name} has no field `{unknown[0]}`{hint}", f"{path}.demos[{number}].{unknown[0]}")
    return parts


def _check_field(predictor: PredictorSpec, field: FieldSpec, path: str) -> int:
    if keyword.iskeyword(field.name) or (field.role == "input" and field.name in RESERVED_INPUTS):
        raise SpecError(f"`{field.name}` is a reserved word and cannot name a field of predictor {predictor.name}", f"{path}.name")
    try:
        parts = check_schema(field.json_schema)
    except SchemaFault as fault:
        raise SpecError(f"predictor {predictor.name}, field {field.name}: {fault}", f"{path}.schema{fault.path}") from None
    if field.role == "output" and (found := dspy_types(field.json_schema)):
        name = sorted(found)[0]
        raise SpecError(f"predictor {predictor.name}, field {field.name}: a dspy.{name} cannot be an answer", f"{path}.schema")
    # None is a common default of fields that cannot otherwise hold it.
    unfit = value_fault(field.default, field.json_schema) if field.default is not None else None
    if unfit:
        raise SpecError(f"predictor {predictor.name}, field {field.name}: the default does not fit: {unfit}", f"{path}.default")
    return parts


# ------------------------------------------------------------------ wiring


def _check_wiring(spec: ProgramSpec) -> None:
    known: dict[str, PredictorSpec] = {}
    for number, step in enumerate(spec.steps or []):
        predictor = _check_step(spec, step, f"steps[{number}]", known)
        known[step.id] = predictor
    for name, reference in (spec.outputs or {}).items():
        _check_reference(reference, f"outputs.{name}", known, spec)
    _check_all_called(spec, [predictor.name for predictor in known.values()])


def _check_step(spec: ProgramSpec, step: StepSpec, path: str, known: dict[str, PredictorSpec]) -> PredictorSpec:
    if step.id == INPUT:
        raise SpecError("`input` stands for the program's inputs and cannot name a step", f"{path}.id")
    predictor = spec.predictor(step.predictor)
    if predictor is None:
        names = [each.name for each in spec.predictors]
        raise SpecError(f"there is no predictor `{step.predictor}`{nearest(step.predictor, names)}", f"{path}.predictor")
    _check_args(step, predictor, path)
    for name, reference in step.args.items():
        _check_reference(reference, f"{path}.args.{name}", known, spec)
    return predictor


def _check_args(step: StepSpec, predictor: PredictorSpec, path: str) -> None:
    inputs = predictor.signature.of_role("input")
    names = [field.name for field in inputs]
    for name in step.args:
        if name not in names:
            raise SpecError(f"predictor {predictor.name} has no input field `{name}`{nearest(name, names)}", f"{path}.args.{name}")
    missing = [field.name for field in inputs if field.name not in step.args and not field.has_default]
    if missing:
        raise SpecError(f"step {step.id}: predictor {predictor.name} needs `{missing[0]}`", f"{path}.args")


def _check_reference(reference: Reference, path: str, known: dict[str, PredictorSpec], spec: ProgramSpec) -> None:
    for each in references(reference):
        source = each.parts[0]
        if source == INPUT:
            continue
        if source not in known:
            raise SpecError(_unknown_source(each, known, spec), path)
        _check_output(each, known[source], path)


def _unknown_source(reference: FromRef, known: dict[str, PredictorSpec], spec: ProgramSpec) -> str:
    source = reference.parts[0]
    if spec.step(source) is not None:
        return f"`{reference.from_}`: step {source} has not run yet; only `input` and earlier steps can be used"
    return f"`{reference.from_}`: there is no step `{source}`{nearest(source, [INPUT, *known])}"


def _check_output(reference: FromRef, predictor: PredictorSpec, path: str) -> None:
    names = [field.name for field in predictor.signature.of_role("output")]
    field = predictor.signature.field(reference.parts[1])
    if field is None or field.role != "output":
        hint = nearest(reference.parts[1], names)
        raise SpecError(f"`{reference.from_}`: predictor {predictor.name} has no output field `{reference.parts[1]}`{hint}", path)
    if schema_at(field, reference.parts[2:]) is None:
        raise SpecError(f"`{reference.from_}`: the type of `{field.name}` has no `{'.'.join(reference.parts[2:])}`", path)


def schema_at(field: FieldSpec, keys: list[str]) -> JsonObject | None:
    """Follow `keys` into the schema of `field`; None if its type has no such part. `$defs` stays at the root of the result."""
    defs = field.json_schema.get("$defs", {})
    schema = _dereferenced(field.json_schema, defs)
    for key in keys:
        if "properties" in schema:
            inner = schema["properties"].get(key)
        else:
            inner = schema.get("additionalProperties", {}) if schema.get("type") == "object" else None
        if not isinstance(inner, dict):
            return None
        schema = _dereferenced(inner, defs)
    return {**schema, "$defs": defs} if defs else dict(schema)


def _dereferenced(schema: JsonObject, defs: JsonObject) -> JsonObject:
    while "$ref" in schema:
        schema = defs[str(schema["$ref"]).rsplit("/", 1)[-1]]
    return schema


def _check_all_called(spec: ProgramSpec, called: list[str]) -> None:
    for number, predictor in enumerate(spec.predictors):
        if predictor.name not in called:
            raise SpecError(f"predictor {predictor.name} is never called by a step", f"predictors[{number}]")
