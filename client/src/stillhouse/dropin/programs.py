"""What travels of a program, of its metric and of its examples: a spec where one can be proved, else what its prompts are made of."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from stillhouse._plain import plain_json
from stillhouse.dropin.identity import Untold, describe, describe_program
from stillhouse.dropin.sent_identity import identity_if_sent
from stillhouse_programs.derive import derive
from stillhouse_programs.describe import predictor_body, shown_schema
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.pinning import unpin
from stillhouse_programs.prove import prove
from stillhouse_programs.signatures import inputs_fault, metric_fault
from stillhouse_programs.spec import SpecError, canonical_json

Json = dict[str, Any]
Metric = Callable[..., Any]
PROVED_ON = 20
"""Rows that a derived spec is proved on, evenly apart."""


def rows_of(examples: Sequence[Any], what: str) -> list[Json]:
    """The examples as rows. Raises ValueError that names the first one which cannot be sent."""
    rows: list[Json] = []
    for number, example in enumerate(examples, 1):
        try:
            example.inputs()
            rows.append(plain_json(dict(example.items())))
        except ValueError as fault:
            raise ValueError(f"{what}: row {number}: {fault}") from None
    return rows


def check_calls(programs: Sequence[dspy.Module], metric: Metric | None, trainset: Sequence[Any], valset: Sequence[Any]) -> None:
    """Raises ValueError for the first example whose inputs a program does not take, and for a metric that cannot be called as it will be.

    The first program is the student; the others, its teachers, are asked about the trainset alone.
    """
    if metric is not None and (fault := metric_fault(metric)) is not None:
        raise ValueError(f"metric: {fault}")
    asked = [("trainset", trainset, each) for each in programs]
    for what, examples, program in [*asked, ("valset", valset, programs[0])]:
        for number, example in enumerate(examples, 1):
            if (fault := inputs_fault(program, example.inputs().keys())) is not None:
                raise ValueError(f"{what}: row {number}: {fault}. Name the inputs alike in its signature, in the row and in with_inputs")


def inputs_of(examples: Sequence[Any]) -> list[Json]:
    """The inputs of a program as its examples have them: those of all examples are required."""
    found = [list(example.inputs().keys()) for example in examples]
    names = dict.fromkeys(name for each in found for name in each)
    return [{"name": name, "required": all(name in each for each in found)} for name in names]


def spec_of(program: dspy.Module, examples: Sequence[Any], roles: Mapping[str, str]) -> Json | None:
    """The spec of a program that is a straight line of calls, proved on some of the examples; None for any other."""
    samples = [dict(example.inputs().items()) for example in examples[:: max(1, len(examples) // PROVED_ON)]]
    try:
        spec = derive(program, samples[0], dict(roles))
        prove(program, spec, samples)
    except (NotASpec, SpecError):
        return None
    except Exception:
        return None
    plain: Json = json.loads(canonical_json(spec))
    return plain


def check_wrappers(program: dspy.Module, multitask: bool) -> None:
    """Raises ValueError where the compiled program could not run: BestOfN and Refine ask one LM for all predictors that they wrap."""
    for _, part in program.named_sub_modules():
        if isinstance(part, (dspy.BestOfN, dspy.Refine)) and len(part.module.predictors()) > 1 and not multitask:
            kind = type(part).__name__
            raise ValueError(f"multitask=False: {kind} asks one LM for all predictors that it wraps; compile them with multitask=True")


def own_program(program: dspy.Module, examples: Sequence[Any], roles: Mapping[str, str]) -> Json:
    """A program that runs here: its predictors, its inputs, a digest of its code and of what it holds, and its identity if it were sent.

    Code on the server gets rows as JSON. Where that is something else than the objects of the examples, it shares no traces with the
    server, nor with releases that gave it JSON here.
    """
    predictors = [predictor_body(name, predictor, roles[name], _schema) for name, predictor in program.named_predictors()]
    with_objects = hold_objects(examples)
    source = _told(lambda: _marked(describe_program(unpin(program.deepcopy())), with_objects), "program")
    code: Json = {"inputs": inputs_of(examples), "source": source}
    if not with_objects and (identity := identity_if_sent(program)) is not None:
        code["identity"] = identity
    return {"predictors": predictors, "client": code}


def check_types(program: dspy.Module) -> None:
    """Raises ValueError for a field of a program that runs here whose prompts the server cannot render: its models would learn others."""
    for name, predictor in program.named_predictors():
        for field, info in predictor.signature.fields.items():
            try:
                shown_schema(info.annotation)
            except NotASpec as fault:
                raise ValueError(
                    f"predictor {name}, field {field}: {fault.reason}, so no prompt can be rendered for training. Give the field another "
                    "type, or send your code with ship_code=True"
                ) from None


def _schema(annotation: Any) -> Json:
    """Of a teacher the server renders no prompts: any value may stand for a type that no schema shows."""
    try:
        return shown_schema(annotation)
    except NotASpec:
        return {}


def hold_objects(examples: Sequence[Any]) -> bool:
    """Whether an example has a value, such as a date or an enum, that is another one as JSON."""
    return any(repr(plain_json(value)) != repr(value) for example in examples for _, value in example.items())


def _marked(described: str, with_objects: bool) -> str:
    return f"objects\n{described}" if with_objects else described


def own_metric(metric: Metric, examples: Sequence[Any]) -> Json:
    name = getattr(metric, "__name__", type(metric).__name__)
    return {
        "type": "client",
        "name": "metric" if name == "<lambda>" else name[:100],
        "source": _told(lambda: _marked(describe(metric), hold_objects(examples)), "metric"),
    }


def _told(described: Callable[[], str], what: str) -> str:
    """A digest of all that answers or scores depend on; where something cannot be told, one that was never seen before."""
    try:
        return _digest(described())
    except Untold as held:
        warnings.warn(f"{what}: its {held} cannot be told from another: each call makes a job of its own", stacklevel=3)
        return _digest(uuid.uuid4().hex)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
