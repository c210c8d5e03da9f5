"""Artifacts: the immutable files of a succeeded job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog import audit
from distill.catalog.models import Alias, Artifact
from distill.db import Listing, Page, Session, paginate
from distill.errors import Conflict, NotFound
from distill.ids import new_id


def create(
    s: Session,
    *,
    project_id: str,
    job_id: str,
    name: str,
    digest: str,
    manifest: str,
    files: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> Artifact:
    """The job's artifact: a second call for the same job returns the first one's row.

    `manifest` is the manifest's JSON text and `digest` its blob; `files` is `{path: {"digest", "size_bytes"}}`, the manifest among them.
    """
    values = {
        "id": new_id("art"), "project_id": project_id, "job_id": job_id, "name": name, "digest": digest, "manifest": manifest,
        "files": {path: dict(entry) for path, entry in files.items()},
        "size_bytes": sum(int(entry["size_bytes"]) for entry in files.values()), "user_metadata": dict(metadata or {}),
    }  # fmt: skip
    s.execute(insert(Artifact).values(values).on_conflict_do_nothing(index_elements=["job_id"]))
    return s.execute(select(Artifact).where(Artifact.job_id == job_id)).scalar_one()


def get(s: Session, project_id: str, artifact_id: str) -> Artifact:
    query = select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id, Artifact.deleted_at.is_(None))
    row = s.scalar(query)
    if row is None:
        raise NotFound(f"no artifact {artifact_id}", code="artifact_not_found", param="id")
    return row


def hold(s: Session, artifact_id: str) -> None:
    """Keep an artifact from being deleted before this transaction ends: for whoever points at it. Raises NotFound when it just was."""
    query = select(Artifact.id).where(Artifact.id == artifact_id, Artifact.deleted_at.is_(None))
    if s.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise NotFound(f"no artifact {artifact_id}", code="artifact_not_found", param="artifact")


def by_id(s: Session, artifact_id: str) -> Artifact:
    """An artifact that a job refers to, deleted or not. Raises NotFound."""
    row = s.get(Artifact, artifact_id)
    if row is None:
        raise NotFound(f"no artifact {artifact_id}", code="artifact_not_found")
    return row


def of_job(s: Session, job_id: str) -> Artifact | None:
    return s.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.deleted_at.is_(None)))


def newest(s: Session, project_id: str, name: str) -> Artifact | None:
    """The project's newest artifact of this name."""
    query = select(Artifact).where(Artifact.project_id == project_id, Artifact.name == name, Artifact.deleted_at.is_(None))
    return s.scalar(query.order_by(Artifact.id.desc()).limit(1))


def list_artifacts(s: Session, project_id: str, page: Page, name: str | None = None) -> Listing[Artifact]:
    query = select(Artifact).where(Artifact.project_id == project_id, Artifact.deleted_at.is_(None))
    return paginate(s, query.where(Artifact.name == name) if name else query, Artifact.id, page)


def delete(s: Session, project_id: str, artifact_id: str) -> None:
    """Hide an artifact. Raises NotFound, and Conflict while an alias points at it."""
    get(s, project_id, artifact_id)
    if (name := alias_of(s, [artifact_id])) is not None:
        raise Conflict(f"{artifact_id} is {name}: move or remove that alias first", code="artifact_in_use", param="id")
    s.execute(update(Artifact).where(Artifact.id == artifact_id).values(deleted_at=func.clock_timestamp()))
    audit.record(s, project_id, "artifact.deleted", artifact_id)


def alias_of(s: Session, artifact_ids: Sequence[str]) -> str | None:
    """An alias that points at one of these artifacts; from now on, to the end of the transaction, none can be pointed at them."""
    s.execute(select(Artifact.id).where(Artifact.id.in_(artifact_ids)).order_by(Artifact.id).with_for_update())
    alias = s.scalar(select(Alias).where(Alias.artifact_id.in_(artifact_ids)).order_by(Alias.id).limit(1))
    return None if alias is None else f"{alias.program_name}@{alias.alias}"
