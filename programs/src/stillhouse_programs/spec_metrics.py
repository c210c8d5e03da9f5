"""The built-in metrics: their options, and the check of a metric against a program. What they compute is in `metrics`."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from stillhouse_programs.spec_errors import SpecError, from_validation
from stillhouse_programs.spec_models import FieldName, ProgramSpec, SpecModel, nearest


class ExactMatch(SpecModel):
    """All `fields` equal the labels; without `fields`, every output that the row has a label for."""

    type: Literal["exact_match"] = "exact_match"
    fields: list[FieldName] | None = Field(None, min_length=1)


class F1(SpecModel):
    """Token F1 between an output and its label, 0 to 1, after lower-casing and dropping punctuation and articles."""

    type: Literal["f1"] = "f1"
    field: FieldName


class FieldEquals(SpecModel):
    """One output equals its label, case or surrounding space ignored on request."""

    type: Literal["field_equals"] = "field_equals"
    field: FieldName
    ignore_case: bool = False
    strip: bool = False


MetricSpec: TypeAlias = ExactMatch | F1 | FieldEquals
METRICS: dict[str, type[ExactMatch] | type[F1] | type[FieldEquals]] = {"exact_match": ExactMatch, "f1": F1, "field_equals": FieldEquals}

_READER: TypeAdapter[MetricSpec] = TypeAdapter(Annotated[MetricSpec, Field(discriminator="type")])


def parse_metric(metric: Any) -> MetricSpec:
    """Read a metric: a name, or an object with `type` and options. Raises SpecError with `param` below `metric`."""
    raw = {"type": metric} if isinstance(metric, str) else metric
    if not isinstance(raw, dict):
        raise SpecError("metric: expected a name or an object with `type`", "metric")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in METRICS:
        hint = nearest(str(kind), list(METRICS))
        raise SpecError(f"metric.type: unknown metric `{kind}`; built in are {', '.join(METRICS)}{hint}", "metric.type")
    try:
        return METRICS[kind].model_validate(raw)
    except ValidationError as error:
        fault = from_validation(error, raw)
        raise SpecError(f"metric.{fault.message}", f"metric.{fault.param}") from None


def metric_fields(metric: MetricSpec) -> list[str] | None:
    """Return the outputs a metric looks at; None for all that have labels."""
    return metric.fields if isinstance(metric, ExactMatch) else [metric.field]


def check_metric_fields(metric: MetricSpec, outputs: list[str]) -> None:
    """Check that a metric looks at outputs of the program only. Raises SpecError."""
    for number, name in enumerate(metric_fields(metric) or []):
        if name not in outputs:
            place = f"metric.fields[{number}]" if isinstance(metric, ExactMatch) else "metric.field"
            raise SpecError(f"{place}: the program has no output `{name}`{nearest(name, outputs)}", place)


def check_metric_of(metric: Any, spec: ProgramSpec) -> None:
    """Check a metric against an expanded spec. Raises SpecError."""
    check_metric_fields(parse_metric(metric), list(spec.outputs or {}))
