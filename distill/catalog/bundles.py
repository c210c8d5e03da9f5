"""Bundles: users' own Python, stored once a project by its digest, as text. Only a runner opens one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from distill.catalog import audit, blobs, by_digest
from distill.catalog.bundle_rows import Bundle as Row
from distill.db import Listing, Page, Session, paginate
from distill.errors import Invalid
from distill.ids import new_id
from distill.storage import BlobStore
from stillhouse_programs.spec import Bundle, SpecError, parse_bundle


def read_bundle(document: Any) -> Bundle:
    """A bundle from parsed JSON. Raises Invalid, whose `param` is the JSON path."""
    try:
        return parse_bundle(document)
    except SpecError as error:
        raise Invalid(error.message, code=getattr(error, "code", "invalid_bundle"), param=error.param) from None


def ensure(s: Session, store: BlobStore, project_id: str, created_by: str | None, bundle: Bundle, blob: str) -> Row:
    """The project's bundle that says this, whose text is in the store as `blob`. A deleted one comes back under its old id."""
    blobs.register(s, store, blob)
    values = {
        "id": new_id("bundle"),
        "blob": blob,
        "size_bytes": store.size(blob),
        "python": bundle.python,
        "modules": bundle.modules,
        "packages": dict(bundle.packages),
        "pickles": sorted(bundle.pickles),
        "identity": bundle.identity,
        "created_by": created_by,
    }
    return by_digest.put(s, Row, project_id, bundle.digest, values)


def get(s: Session, project_id: str, bundle_id: str) -> Row:
    return by_digest.get(s, Row, "bundle", project_id, bundle_id)


def list_bundles(s: Session, project_id: str, page: Page, identity: str | None = None) -> Listing[Row]:
    query = select(Row).where(Row.project_id == project_id, Row.deleted_at.is_(None))
    return paginate(s, query.where(Row.identity == identity) if identity else query, Row.id, page)


def delete(s: Session, project_id: str, bundle_id: str) -> None:
    """Hide a bundle, and let go of its text: what was made of it cannot run any more. Raises NotFound."""
    by_digest.hide(s, Row, "bundle", project_id, bundle_id)
    audit.record(s, project_id, "bundle.deleted", bundle_id)
