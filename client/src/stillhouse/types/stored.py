"""Programs, datasets, models, artifacts, the account."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stillhouse.types.base import Object


class Program(Object):
    """`prompts` are shown once, when it is stored: per predictor, the messages that it would send, an input standing as `{input.name}`."""

    id: str
    name: str | None = None
    digest: str = ""
    inputs: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    predictors: list[str] = Field(default_factory=list)
    lms: list[str] = Field(default_factory=list)
    spec: dict[str, Any] = Field(default_factory=dict)
    prompts: list[dict[str, Any]] | None = None
    note: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class Render(Object):
    """Per predictor call, the messages that would be sent."""

    program: str
    calls: list[dict[str, Any]]
    note: str | None = None


class Metric(Object):
    """`spec` is what a job's `metric` takes; a job takes `id` in its place."""

    id: str
    name: str | None = None
    digest: str = ""
    spec: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)


class TriedPair(Object):
    """`value` is None unless `status` is ok; `error` says what the metric raised."""

    value: float | None = None
    status: str
    feedback: str | None = None
    error: str | None = None


class MetricTried(Object):
    """What a metric said of each pair, in the order in which they were sent."""

    metric: str
    data: list[TriedPair]


class Bundle(Object):
    """Code that was sent. `pickles` names what was sent by value, `identity` is what its client tells it by."""

    id: str
    digest: str = ""
    python: str = ""
    modules: list[str] = Field(default_factory=list)
    packages: dict[str, str] = Field(default_factory=dict)
    pickles: list[str] = Field(default_factory=list)
    identity: str | None = None
    size: int = 0


class Dataset(Object):
    id: str
    rows: int
    name: str | None = None
    digest: str = ""
    columns: list[dict[str, Any]] = Field(default_factory=list)
    metadata: dict[str, str] = Field(default_factory=dict)


class File(Object):
    """What a fine-tuning job of OpenAI's clients reads its rows from."""

    id: str
    filename: str
    bytes: int
    purpose: str = ""


class DatasetRow(Object):
    row: int
    data: dict[str, Any]


class DatasetRows(Object):
    data: list[DatasetRow]
    has_more: bool = False
    next_row: int | None = None


class Model(Object):
    id: str
    status: str = "loaded"
    status_reason: str | None = None
    owned_by: str | None = None
    parent: str | None = None
    alias_of: str | None = None
    connection: str | None = None


class ArtifactFile(Object):
    path: str
    size_bytes: int
    digest: str


class ResolvedLM(Object):
    """`rule` is the one that decided; None where the name itself says the connection."""

    lm: str
    connection: str
    model: str
    rule: str | None = None


class Artifact(Object):
    id: str
    name: str | None = None
    digest: str = ""
    compile_job_id: str | None = None
    files: list[ArtifactFile] = Field(default_factory=list)
    models: dict[str, str] = Field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class Alias(Object):
    """`name` is `program_name@alias`; `artifact` is the id of what it names."""

    id: str
    name: str
    artifact: str
    moved_at: int | None = None
    moved_by: str | None = None


class AliasMove(Object):
    """`artifact` is None where the alias was removed, `previous_artifact` where it was made."""

    id: str
    created_at: int
    name: str
    artifact: str | None = None
    previous_artifact: str | None = None
    moved_by: str | None = None


class ArtifactCall(Object):
    outputs: dict[str, Any]


class Me(Object):
    project: str
    key_id: str
    scopes: list[str]
