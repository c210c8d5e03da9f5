"""Programs, datasets, models, artifacts, the account."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stillhouse.types.base import Object


class Program(Object):
    id: str
    name: str | None = None
    digest: str = ""
    inputs: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    predictors: list[str] = Field(default_factory=list)
    lms: list[str] = Field(default_factory=list)
    spec: dict[str, Any] = Field(default_factory=dict)


class Render(Object):
    """Per predictor call, the messages that would be sent."""

    program: str
    calls: list[dict[str, Any]]


class Dataset(Object):
    id: str
    rows: int
    name: str | None = None
    digest: str = ""
    columns: list[dict[str, Any]] = Field(default_factory=list)


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
    owned_by: str | None = None
    parent: str | None = None
    connection: str | None = None


class ArtifactFile(Object):
    path: str
    size_bytes: int
    digest: str


class Artifact(Object):
    id: str
    name: str | None = None
    digest: str = ""
    compile_job_id: str | None = None
    files: list[ArtifactFile] = Field(default_factory=list)
    models: dict[str, str] = Field(default_factory=dict)
    evaluation: dict[str, Any] | None = None


class ArtifactCall(Object):
    outputs: dict[str, Any]


class Me(Object):
    project: str
    key_id: str
    scopes: list[str]
