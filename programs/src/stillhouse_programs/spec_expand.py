"""The canonical form of a spec: everything that a person may leave out, filled in."""

from collections.abc import Mapping

from stillhouse_programs.schema_check import ordered
from stillhouse_programs.spec_errors import SpecError
from stillhouse_programs.spec_models import (
    FieldSpec,
    FromRef,
    PredictorSpec,
    ProgramSpec,
    Reference,
    SignatureSpec,
    StepSpec,
    TemplateRef,
)

REASONING = "reasoning"
SINGLE_STEP = "call"


def expand_spec(spec: ProgramSpec) -> ProgramSpec:
    """Return the same program with ChainOfThought, instructions and the wiring of a single predictor written out.

    Expanding twice changes nothing. Raises SpecError if wiring is missing that cannot be filled in.
    """
    spec = spec.model_copy(update={"predictors": [_expand_predictor(each, f"predictors[{at}]") for at, each in enumerate(spec.predictors)]})
    if spec.code is not None:
        return spec
    if spec.steps is not None and spec.outputs is not None:
        return spec
    if spec.steps is not None or spec.outputs is not None:
        missing = "outputs" if spec.outputs is None else "steps"
        raise SpecError(f"`{missing}` is missing: give both `steps` and `outputs`, or neither with a single predictor", missing)
    if len(spec.predictors) != 1:
        raise SpecError("`steps` is required with more than one predictor", "steps")
    return spec.model_copy(update=_single_wiring(spec.predictors[0]))


def _single_wiring(predictor: PredictorSpec) -> dict[str, object]:
    args: dict[str, Reference] = {field.name: _reference(f"input.{field.name}") for field in predictor.signature.of_role("input")}
    outputs = {field.name: _reference(f"{SINGLE_STEP}.{field.name}") for field in predictor.signature.of_role("output")}
    return {"steps": [StepSpec(id=SINGLE_STEP, predictor=predictor.name, args=args)], "outputs": outputs}


def _reference(path: str) -> FromRef:
    return FromRef.model_validate({"from": path})


def _expand_predictor(predictor: PredictorSpec, path: str) -> PredictorSpec:
    # dspy makes the instructions of a ChainOfThought before it adds `reasoning`, so they are filled in first.
    signature = predictor.signature
    fields = [_plain_field(field) for field in signature.fields]
    if predictor.type == "ChainOfThought":
        fields = _with_reasoning(predictor, fields, path)
    expanded = SignatureSpec(instructions=signature.instructions or _default_instructions(signature), fields=fields)
    return predictor.model_copy(update={"type": "Predict", "signature": expanded})


def _default_instructions(signature: SignatureSpec) -> str:
    inputs = ", ".join(f"`{field.name}`" for field in signature.of_role("input"))
    outputs = ", ".join(f"`{field.name}`" for field in signature.of_role("output"))
    return f"Given the fields {inputs}, produce the fields {outputs}."


def _plain_field(field: FieldSpec) -> FieldSpec:
    """`${name}` is what dspy says of a field without a description."""
    desc = None if field.desc == f"${{{field.name}}}" else field.desc
    return field.model_copy(update={"desc": desc, "json_schema": ordered(field.json_schema)})


def _with_reasoning(predictor: PredictorSpec, fields: list[FieldSpec], path: str) -> list[FieldSpec]:
    if any(field.name == REASONING for field in fields):
        raise SpecError(f"predictor {predictor.name}: ChainOfThought adds `{REASONING}` itself", f"{path}.signature.fields")
    first = next((at for at, field in enumerate(fields) if field.role == "output"), len(fields))
    return [*fields[:first], FieldSpec(name=REASONING, role="output"), *fields[first:]]


# ------------------------------------------------------------------ step ids


def number_steps(spec: ProgramSpec) -> ProgramSpec:
    """Return an expanded spec with the step ids `s1`, `s2`, … in the order of the steps, as derived specs have them.

    An id reaches no prompt, so specs that differ in nothing else are the same program.
    """
    if spec.code is not None:
        return spec
    steps = spec.steps or []
    ids = {step.id: f"s{number}" for number, step in enumerate(steps, 1)}
    return spec.model_copy(update={"steps": [_numbered(step, ids) for step in steps], "outputs": _renamed(spec.outputs or {}, ids)})


def _numbered(step: StepSpec, ids: Mapping[str, str]) -> StepSpec:
    return step.model_copy(update={"id": ids[step.id], "args": _renamed(step.args, ids)})


def _renamed(references: Mapping[str, Reference], ids: Mapping[str, str]) -> dict[str, Reference]:
    return {name: _rename(reference, ids) for name, reference in references.items()}


def _rename(reference: Reference, ids: Mapping[str, str]) -> Reference:
    if isinstance(reference, FromRef):
        return _rename_path(reference, ids)
    if isinstance(reference, TemplateRef):
        pieces = [piece if isinstance(piece, str) else _rename_path(piece, ids) for piece in reference.template]
        return reference.model_copy(update={"template": pieces})
    return reference


def _rename_path(reference: FromRef, ids: Mapping[str, str]) -> FromRef:
    source, *rest = reference.parts
    return reference.model_copy(update={"from_": ".".join([ids.get(source, source), *rest])})
