"""Rows that artifacts were measured on, by the digest of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, select

from distill.catalog.copying import copy_in
from distill.catalog.models import Artifact, HeldOutRow
from distill.db import Session


def store(s: Session, artifact_id: str, digests: Iterable[str]) -> int:
    """Remember the rows of an artifact's holdout; returns how many were new."""
    return copy_in(s, "held_out_rows", ("artifact_id", "digest"), ((artifact_id, digest) for digest in digests), ("artifact_id", "digest"))


def by_artifact(s: Session, project_id: str, program_name: str) -> list[str]:
    """The project's artifacts of a program that have a holdout, oldest first."""
    return list(s.scalars(_artifacts(project_id, program_name).order_by(Artifact.id)))


def among(s: Session, artifact_ids: Sequence[str], digests: Sequence[str]) -> dict[str, str]:
    """`{digest: the newest of these artifacts that held it out}`, of those that any did."""
    query = select(HeldOutRow.digest, HeldOutRow.artifact_id)
    query = query.where(HeldOutRow.artifact_id.in_(artifact_ids), HeldOutRow.digest.in_(digests)).order_by(HeldOutRow.artifact_id)
    return {row.digest: row.artifact_id for row in s.execute(query)}


def _artifacts(project_id: str, program_name: str) -> Select[str]:
    has_rows = select(HeldOutRow.artifact_id).where(HeldOutRow.artifact_id == Artifact.id).exists()
    query = select(Artifact.id).where(Artifact.project_id == project_id, Artifact.name == program_name)
    return query.where(Artifact.deleted_at.is_(None), has_rows)
