"""The built-in metrics: their options, and the check of a metric against a program. What they compute is in `metrics`."""

from typing import Any, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from stillhouse_programs.spec_errors import SpecError, from_validation
from stillhouse_programs.spec_models import BundleDigest, FieldName, JsonObject, ProgramSpec, Source, SpecModel, Target, nearest


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


class ReferenceMetric(SpecModel):
    """A metric of an installed package, or of a bundle: a function of (example, prediction, trace), or what makes one when it is called
    with `kwargs`."""

    type: Literal["reference"] = "reference"
    reference: Target = Field(description="`package.module:name`.")
    kwargs: JsonObject = Field(default_factory=dict)
    source: Source = Field(default_factory=dict, description="SHA-256 of every module of the package; the server fills it in.")
    bundle: BundleDigest = Field("", description="The digest of the bundle that it is in; of an installed package if left out.")

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests are made of this text, and a release before bundles reads it.
        return {name: value for name, value in handler(self).items() if name != "bundle" or value}


class ClientMetric(SpecModel):
    """A metric that its caller alone has: it is asked in the caller's own process, and its scores are sent in."""

    type: Literal["client"] = "client"
    name: str = Field("metric", max_length=100, pattern=r"^[^\x00-\x1f]+$", description="How reports name it.")
    source: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the code: another metric scores anew.")


MetricSpec: TypeAlias = ExactMatch | F1 | FieldEquals | ReferenceMetric | ClientMetric
METRICS: dict[str, type[ExactMatch] | type[F1] | type[FieldEquals]] = {"exact_match": ExactMatch, "f1": F1, "field_equals": FieldEquals}
_MODELS: dict[str, type[ExactMatch] | type[F1] | type[FieldEquals] | type[ReferenceMetric] | type[ClientMetric]] = {
    **METRICS,
    "reference": ReferenceMetric,
    "client": ClientMetric,
}


def parse_metric(metric: Any) -> MetricSpec:
    """Read a metric: a name, or an object with `type` and options. Raises SpecError with `param` below `metric`."""
    if isinstance(metric, (ExactMatch, F1, FieldEquals, ReferenceMetric, ClientMetric)):
        return metric
    raw = {"type": metric} if isinstance(metric, str) else metric
    if not isinstance(raw, dict):
        raise SpecError("metric: expected a name or an object with `type`", "metric")
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise SpecError(f"metric.type: expected the name of a metric; built in are {', '.join(METRICS)}", "metric.type")
    if kind not in _MODELS:
        hint = nearest(kind[:64], list(_MODELS))
        raise SpecError(f"metric.type: unknown metric `{kind[:64]}`; built in are {', '.join(METRICS)}{hint}", "metric.type")
    try:
        return _MODELS[kind].model_validate(raw)
    except ValidationError as error:
        fault = from_validation(error, raw)
        raise SpecError(f"metric.{fault.message}", f"metric.{fault.param}") from None


def metric_fields(metric: MetricSpec) -> list[str] | None:
    """Return the outputs a metric looks at: none that are known of a metric that is code; None for all that have labels."""
    if isinstance(metric, (ReferenceMetric, ClientMetric)):
        return []
    return metric.fields if isinstance(metric, ExactMatch) else [metric.field]


def check_metric_fields(metric: MetricSpec, outputs: list[str]) -> None:
    """Check that a metric looks at outputs of the program only. Raises SpecError."""
    for number, name in enumerate(metric_fields(metric) or []):
        if name not in outputs:
            place = f"metric.fields[{number}]" if isinstance(metric, ExactMatch) else "metric.field"
            raise SpecError(f"{place}: the program has no output `{name}`{nearest(name, outputs)}", place)


def check_metric_of(metric: Any, spec: ProgramSpec) -> None:
    """Check a metric against an expanded spec. What a program that is code returns is not known. Raises SpecError."""
    parsed = parse_metric(metric)
    if spec.code is None:
        check_metric_fields(parsed, list(spec.outputs or {}))
