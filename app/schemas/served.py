"""What is served: models, artifacts, connections, the caller's own account."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply


class ModelRead(Reply):
    """OpenAI's model object, with where it stands."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = Field(default=None, description="The base model of a LoRA adapter")
    compile_job_id: str | None = None
    alias_of: str | None = Field(default=None, description="The fine-tuned model that a name of an alias means now")
    predictors: list[str] = Field(default_factory=list, description="Predictors whose prompts it was trained on")
    connection: str | None = None
    status: str = Field(description="loaded, loading, unloaded or failed; loading too while its LM host has lent its device to a training")
    status_reason: str | None = Field(default=None, description="Why it does not answer now, where that is known")


class ArtifactFile(Reply):
    path: str
    size_bytes: int
    digest: str


class ArtifactRead(Reply):
    """Immutable result of a succeeded compile job."""

    id: str
    object: Literal["artifact"] = "artifact"
    created_at: int
    name: str
    compile_job_id: str
    digest: str = Field(description="Digest of manifest.json, which holds the digest of every other file")
    size_bytes: int
    files: list[ArtifactFile]
    models: dict[str, str] = Field(description="Predictor → id of its tuned model")
    evaluation: dict[str, Any] | None
    load: str
    content: str
    metadata: dict[str, str] = Field(description="Of its job, as it was when the artifact was made")


class CallRequest(Body):
    model_config = examples.shown(inputs=examples.INPUTS)

    inputs: dict[str, Any]


class CallRead(Reply):
    object: Literal["artifact.call"] = "artifact.call"
    artifact: str
    outputs: dict[str, Any]
    usage: dict[str, Any] | None = None


class ConnectionRead(Reply):
    """A registered LM host. Its key is never shown."""

    id: str
    object: Literal["connection"] = "connection"
    created_at: int
    name: str
    kind: str
    models: list[str] | Literal["*"]
    match: list[str] = Field(description="Names of LMs in users' programs that it stands for; `*` is anything")
    supports: list[str]
    default_student: bool
    default_teacher: bool
    max_in_flight: int
    trainer: str | None
    device: str | None
    waiting: bool = Field(description="Its host has lent its device to a trainer; what needs it waits")
    owner: str = Field(description="`operator`: of the server's settings file, for every project; `project`: the project's own")
    revision: int = Field(description="Grows when it leads to another LM host; answers of another revision are not taken for its own")
    has_key: bool
    key_hint: str | None = Field(description="The last characters of the key")
    base_url: str | None = Field(description="Of the project's own alone")
    prices: dict[str, dict[str, float]] | None = Field(description="Of the project's own alone; US dollars per million tokens, by model")


class ResolvedLmRead(Reply):
    """What a job would name in place of an LM of a user's program."""

    object: Literal["connection.resolved"] = "connection.resolved"
    lm: str
    connection: str
    model: str
    rule: str | None = Field(description="The rule that decided; null where the name itself says the connection")


class MeRead(Reply):
    object: Literal["account"] = "account"
    project: str
    project_id: str
    key_id: str | None
    scopes: list[str]
