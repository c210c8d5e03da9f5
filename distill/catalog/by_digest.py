"""Programs, metrics and bundles: what a project has once by its digest. One that was hidden comes back under its old id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.bundle_rows import Bundle
from distill.catalog.models import Metric, Program
from distill.db import Listing, Page, Session, paginate
from distill.errors import NotFound

Kept = TypeVar("Kept", Program, Metric, Bundle)


def put(s: Session, kind: type[Kept], project_id: str, digest: str, values: Mapping[str, Any]) -> Kept:
    """The project's one with this digest, stored now with `values`, by column, if it is new; else it gets an identity that it lacks."""
    table = kind.__table__
    statement = insert(table).values({**values, "project_id": project_id, "digest": digest})  # type: ignore[arg-type]
    changes: dict[str, Any] = {"deleted_at": None}
    if values.get("identity") is not None:
        changes["identity"] = func.coalesce(table.c.identity, statement.excluded.identity)
    s.execute(statement.on_conflict_do_update(index_elements=["project_id", "digest"], set_=changes))
    return s.execute(select(kind).where(kind.project_id == project_id, kind.digest == digest)).scalar_one()


def get(s: Session, kind: type[Kept], noun: str, project_id: str, row_id: str) -> Kept:
    """Raises NotFound, in the words of `noun`."""
    row = s.scalar(select(kind).where(kind.id == row_id, kind.project_id == project_id, kind.deleted_at.is_(None)))
    if row is None:
        raise NotFound(f"no {noun} {row_id}", code=f"{noun}_not_found", param=noun)
    return row


def page_of(s: Session, kind: type[Kept], project_id: str, page: Page) -> Listing[Kept]:
    return paginate(s, select(kind).where(kind.project_id == project_id, kind.deleted_at.is_(None)), kind.id, page)


def hide(s: Session, kind: type[Kept], noun: str, project_id: str, row_id: str) -> None:
    """What points at it keeps it. Raises NotFound."""
    get(s, kind, noun, project_id, row_id)
    s.execute(update(kind).where(kind.id == row_id).values(deleted_at=func.clock_timestamp()))
