"""Program specs, version 1: what a program is without its code. Pure pydantic and the standard library; dspy is not needed.

A spec names the leaf predictors of a program with their typed signatures, and the straight-line wiring between them:

    {"spec_version": 1, "predictors": [{"name": "self", "lm": "student", "signature": {
      "instructions": "Route a customer message to one team.",
      "fields": [{"name": "message", "role": "input"},
                 {"name": "category", "role": "output", "schema": {"type": "string", "enum": ["billing", "other"]}}]}}]}
"""

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from stillhouse_programs.schema_check import dspy_types
from stillhouse_programs.spec_bundle import BUNDLE_MODULE, Bundle, parse_bundle
from stillhouse_programs.spec_checks import check_predictors, check_wiring
from stillhouse_programs.spec_demos import DemosMode, with_demos
from stillhouse_programs.spec_errors import SpecError, from_validation
from stillhouse_programs.spec_expand import expand_spec, number_steps
from stillhouse_programs.spec_labels import Label, step_labels
from stillhouse_programs.spec_metrics import (
    F1,
    METRICS,
    ClientMetric,
    ExactMatch,
    FieldEquals,
    MetricSpec,
    ReferenceMetric,
    check_metric_of,
    metric_fields,
    parse_metric,
)
from stillhouse_programs.spec_models import (
    PROMPT_ADAPTER_TYPES,
    ClientCode,
    FieldSpec,
    FromRef,
    GenerationConfig,
    InputSpec,
    PredictorSpec,
    ProgramReference,
    ProgramSpec,
    PromptAdapterSpec,
    Reference,
    SignatureSpec,
    StepSpec,
    TemplateRef,
    ValueRef,
    no_prompt_adapter,
)
from stillhouse_programs.spec_reference import REFERENCES_VARIABLE, ReferenceFault, check_allowed, read_prefixes
from stillhouse_programs.spec_rows import Column, RowCheck, RowFault, RowReader, cast_cell, input_columns, label_columns

__all__ = [
    "ProgramSpec", "PredictorSpec", "SignatureSpec", "FieldSpec", "StepSpec", "Reference", "FromRef", "ValueRef", "TemplateRef",
    "GenerationConfig", "PromptAdapterSpec", "PROMPT_ADAPTERS", "DEFAULT_PROMPT_ADAPTER", "no_prompt_adapter", "SpecError",
    "parse_spec", "parse_prompt_adapter", "expand", "canonical_json", "input_names", "required_input_names", "output_names",
    "lm_roles", "predictor_names", "columns", "Column", "check_row", "RowFault", "RowReader", "cast_cell", "row_reader", "dspy_types",
    "Label", "labels",
    "DemosMode", "with_demos", "METRICS", "MetricSpec", "ExactMatch", "F1", "FieldEquals", "parse_metric", "check_metric", "metric_fields",
    "ProgramReference", "ClientCode", "InputSpec", "ReferenceMetric", "ClientMetric",
    "REFERENCES_VARIABLE", "ReferenceFault", "check_allowed", "read_prefixes",
    "Bundle", "parse_bundle", "BUNDLE_MODULE",
]  # fmt: skip

PROMPT_ADAPTERS = frozenset(PROMPT_ADAPTER_TYPES)
DEFAULT_PROMPT_ADAPTER = PromptAdapterSpec()


def parse_spec(obj: Any) -> ProgramSpec:
    """Read and check a spec from parsed JSON.

    Returns the spec as it was written; see `expand`. Raises SpecError, whose `param` is the JSON path of the fault.
    """
    try:
        spec = ProgramSpec.model_validate(obj)
    except ValidationError as error:
        raise from_validation(error, obj) from None
    check_predictors(spec)
    check_wiring(expand_spec(spec))
    return spec


def parse_prompt_adapter(obj: Any) -> PromptAdapterSpec:
    """Read a prompt adapter: a name, or an object with `type`. None is the default. Raises SpecError."""
    if obj is None or isinstance(obj, PromptAdapterSpec):
        return obj or DEFAULT_PROMPT_ADAPTER
    raw = {"type": obj} if isinstance(obj, str) else obj
    try:
        return PromptAdapterSpec.model_validate(raw)
    except ValidationError as error:
        raise from_validation(error, raw, "prompt_adapter") from None


def expand(spec: ProgramSpec) -> ProgramSpec:
    """Return the canonical form: ChainOfThought, instructions and the wiring of a single predictor written out."""
    return expand_spec(spec)


def canonical_json(spec: ProgramSpec) -> str:
    """Return the expanded spec as compact JSON, the text that digests are made of.

    Keys of our own stand in the order of the models, users' keys (schemas, demos, constants) in their own, since order is part
    of a prompt; defaults are left out, and steps are numbered: their ids reach no prompt. `prompt_hash` is left out too: it is a
    claim about the program, not a part of it.
    """
    numbered = number_steps(expand_spec(spec)).model_copy(update={"prompt_hash": None})
    return json.dumps(_plain(numbered), ensure_ascii=False, separators=(",", ":"))


_ALWAYS: dict[type[BaseModel], tuple[str, ...]] = {ProgramSpec: ("spec_version",), PromptAdapterSpec: ("type",)}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain_model(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _plain_model(model: BaseModel) -> dict[str, Any]:
    plain = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if (
            info.is_required()
            or name in _ALWAYS.get(type(model), ())
            or _differs(model, name, value, info.get_default(call_default_factory=True))
        ):
            plain[info.alias or name] = _plain(value)
    return plain


def _differs(model: BaseModel, name: str, value: Any, default: Any) -> bool:
    if isinstance(model, FieldSpec) and name == "default":
        return model.has_default
    return bool(value != default)


# ------------------------------------------------------------------ what a program takes and gives


def input_names(spec: ProgramSpec) -> list[str]:
    """Names of the program's inputs, in the order of first use."""
    return list(input_columns(expand_spec(spec)))


def required_input_names(spec: ProgramSpec) -> list[str]:
    """Names of the inputs that must be given; the others feed only fields with defaults."""
    return [name for name, column in input_columns(expand_spec(spec)).items() if column.required]


def output_names(spec: ProgramSpec) -> list[str]:
    """Names of the program's outputs, in order; none where the program is code, which says at the end of a run what it returns."""
    return list(expand_spec(spec).outputs or {})


def predictor_names(spec: ProgramSpec) -> list[str]:
    """Names of the predictors, in order; those of `named_predictors()`."""
    return [predictor.name for predictor in spec.predictors]


def lm_roles(spec: ProgramSpec) -> list[str]:
    """The LM roles that the predictors name, each once, in order of first use."""
    return list(dict.fromkeys(predictor.lm for predictor in spec.predictors))


def columns(spec: ProgramSpec) -> dict[str, Column]:
    """The columns that a dataset can have for this program: its inputs, then outputs that labels can be held against."""
    expanded = expand_spec(spec)
    return {**label_columns(expanded), **input_columns(expanded)}


def check_row(spec: ProgramSpec, row: Any) -> list[RowFault]:
    """Say what is wrong with one row: missing inputs, values of the wrong type. An empty list means that it can be used.

    Columns that the program does not know are not faults. Rows of one spec object after another are checked fast.
    """
    global _last_check
    known = _last_check
    if known is None or known[0] is not spec:
        known = _last_check = spec, RowCheck(expand_spec(spec))
    return known[1].faults(row)


# A trainset is checked row by row against one spec; two threads at most make the check twice.
_last_check: tuple[ProgramSpec, RowCheck] | None = None


def labels(spec: ProgramSpec) -> list[Label]:
    """The gold values that a program's answers are trained on where the labels teach: one for each output field of each step."""
    return [label for step in step_labels(expand_spec(spec)) for label in step]


def row_reader(spec: ProgramSpec, *, as_text: bool) -> RowReader:
    """What reads the rows of a CSV (`as_text`) or Parquet file as a program takes them; columns it does not know stay as they are."""
    inner = {name: Column(name, "label", label.schema, required=False) for label in labels(spec) for name in label.columns}
    return RowReader({**inner, **columns(spec)}, as_text=as_text)


def check_metric(metric: Any, spec: ProgramSpec) -> None:
    """Check a built-in metric, by name or as an object, against a program. Raises SpecError with `param` below `metric`."""
    check_metric_of(metric, expand_spec(spec))
