"""Metrics, and what one says of answers that are sent along."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from app import examples
from app.schemas.common import Body, Metadata, Name, Reply
from app.schemas.rules import ReadAs, declared
from stillhouse_programs.spec import F1, ClientMetric, ExactMatch, FieldEquals, ReferenceMetric

#: The one whose options can all be left out; `f1` and `field_equals` need a field.
BuiltIn = Annotated[str, declared(const="exact_match")]
BuiltInOrStored = Annotated[str, declared(pattern=r"^(exact_match|metric-[!-~]+)$")]


class CodeMetric(ReferenceMetric):
    """A metric that is code, as a request names its bundle."""

    bundle: Annotated[str, declared(minLength=1)] = Field(
        default="", description="`bundle-…`: the code is in it, and not of an installed package"
    )


StoredMetric = ExactMatch | F1 | FieldEquals | CodeMetric
AnyMetric = StoredMetric | ClientMetric
_TYPE = declared(required=["type"])
MetricToStore = Annotated[dict[str, Any], ReadAs(Annotated[StoredMetric, Discriminator("type")]), _TYPE]
MetricDocument = Annotated[dict[str, Any], ReadAs(Annotated[AnyMetric, Discriminator("type")]), _TYPE]


class MetricCreate(Body):
    """A metric with a name."""

    model_config = examples.shown(name="right-team", spec=examples.METRIC_SPEC)

    name: Name | None = None
    spec: BuiltIn | MetricToStore = Field(description="What a job's `metric` takes: a metric's name, or `{type, …}`")
    metadata: Metadata = Field(default_factory=dict)


class MetricRead(Reply):
    id: str
    object: Literal["metric"] = "metric"
    created_at: int
    created_by: str | None
    name: str | None
    digest: str
    spec: dict[str, Any]
    metadata: dict[str, str]


class MetricTry(Body):
    """Rows and, in the same order, what a program would have answered."""

    model_config = examples.shown(examples=examples.ROWS[:1], predictions=[{"team": "billing"}])

    examples: list[dict[str, Any]] = Field(min_length=1, max_length=20, description="Rows: inputs and labels")
    predictions: list[dict[str, Any]] = Field(max_length=20, description="The outputs for each of them")

    @model_validator(mode="after")
    def _in_pairs(self) -> MetricTry:
        if len(self.examples) != len(self.predictions):
            raise PydanticCustomError("pairs", "`examples` and `predictions` are pairs: give as many of the one as of the other")
        return self


class TriedPair(Reply):
    value: float | None = Field(description="null unless `status` is ok")
    status: Literal["ok", "inconclusive", "failed"]
    feedback: str | None
    error: str | None = Field(description="What the metric raised, or why what it returned is no score")


class MetricTried(Reply):
    """What the metric said of each pair, in the order of the request."""

    object: Literal["metric.try"] = "metric.try"
    metric: str
    data: list[TriedPair]
