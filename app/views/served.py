"""Models, artifacts and connections as their readers see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.schemas.served import ArtifactFile, ArtifactRead, ConnectionRead, ModelRead
from app.views.compile_jobs import artifact_link
from app.views.convert import seconds
from distill.catalog import fine_tuned
from distill.catalog.models import Artifact, Connection, Model, Placement

_WORDS = {"wanted": "loading", "loading": "loading", "ready": "loaded", "failed": "failed"}


def model_read(model: Model, placement: Placement | None, connection: Connection | None, lent: Mapping[str, str]) -> ModelRead:
    """A fine-tuned model; `status` says whether it would answer now. `lent` are the connections whose host has lent its device, and why."""
    status = _WORDS.get(placement.status, "unloaded") if placement else "unloaded"
    why_lent = lent.get(model.connection_id)
    return ModelRead(
        id=fine_tuned.public_id(model.id),
        created=seconds(model.created_at),
        owned_by="stillhouse",
        parent=model.base_model,
        compile_job_id=model.job_id,
        predictors=list(model.predictors),
        connection=connection.name if connection else None,
        status="loading" if why_lent and status == "loaded" else status,
        status_reason=why_lent or (placement.error if placement and status == "failed" else None),
    )


def under_alias(model: ModelRead, name: str) -> ModelRead:
    """The same model by a name of an alias."""
    return model.model_copy(update={"id": name, "alias_of": model.id})


def connection_models(connection: Connection, lent: Mapping[str, str]) -> list[ModelRead]:
    """The models that a connection lists; one that passes any name on lists none."""
    return [connection_model(connection, name, lent) for name in connection.models or ()]


def connection_model(connection: Connection, name: str, lent: Mapping[str, str]) -> ModelRead:
    """A model of a connection's own."""
    why_lent = lent.get(connection.id)
    return ModelRead(
        id=f"{connection.name}/{name}",
        created=seconds(connection.created_at),
        owned_by=connection.name,
        connection=connection.name,
        status="loading" if why_lent else "loaded",
        status_reason=why_lent,
    )


def connection_read(row: Connection) -> ConnectionRead:
    """Without key, and the operator's without address: jobs name connections, never URLs."""
    own = row.project_id is not None
    return ConnectionRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=row.name,
        kind=row.kind,
        models=list(row.models) if row.models is not None else "*",
        match=list(row.match),
        supports=list(row.supports),
        default_student=row.default_student,
        default_teacher=row.default_teacher,
        max_in_flight=row.max_in_flight,
        trainer=row.trainer,
        device=row.device,
        waiting=row.waiting_since is not None,
        owner="project" if own else "operator",
        revision=row.revision,
        has_key=(row.sealed_key if own else row.api_key_env) is not None,
        key_hint=row.key_hint,
        base_url=row.base_url if own else None,
        prices=row.prices if own else None,
    )


def artifact_read(row: Artifact) -> ArtifactRead:
    """An artifact with its files and the scores from its manifest."""
    manifest: dict[str, Any] = json.loads(row.manifest)
    link = artifact_link(row.id, row.name)
    return ArtifactRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=row.name,
        compile_job_id=row.job_id,
        digest=row.digest,
        size_bytes=row.size_bytes,
        files=[
            ArtifactFile(path=path, size_bytes=entry["size_bytes"], digest=entry["digest"]) for path, entry in sorted(row.files.items())
        ],
        models={name: entry["model"] for name, entry in manifest.get("predictors", {}).items()},
        evaluation=manifest.get("evaluation"),
        load=link.load,
        content=link.content,
        metadata=row.user_metadata,
    )
