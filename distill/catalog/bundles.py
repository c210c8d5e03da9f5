"""Bundles: users' own Python, stored once a project by its digest, as text. Only a runner opens one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select

from distill.catalog import audit, blobs, by_digest
from distill.catalog.bundle_rows import Bundle as Row
from distill.db import Listing, Page, Session, paginate
from distill.errors import Invalid
from distill.ids import new_id
from distill.storage import BlobStore
from stillhouse_programs.spec import Bundle, MetricSpec, ProgramReference, ProgramSpec, ReferenceMetric, SpecError, parse_bundle


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


def bundle_of(code: ProgramSpec | MetricSpec) -> str:
    """The digest of the bundle that a program or a metric is of; empty for what is none's."""
    named = code.reference if isinstance(code, ProgramSpec) else code
    return named.bundle if isinstance(named, ProgramReference | ReferenceMetric) else ""


def identity_of(s: Session, project_id: str, digest: str) -> str | None:
    """What the client of a bundle tells its code by; also of one that was deleted."""
    return s.scalar(select(Row.identity).where(Row.project_id == project_id, Row.digest == digest)) if digest else None


def by_name(s: Session, project_id: str, named: str, param: str = "bundle", *, hold: bool = False) -> Row:
    """The project's bundle with this id or digest; `hold` keeps it from being deleted in this transaction. Raises Invalid."""
    where = (Row.id == named) | (Row.digest == named)
    query = select(Row).where(Row.project_id == project_id, Row.deleted_at.is_(None), where)
    row = s.scalar(query.with_for_update(read=True) if hold else query)
    if row is None:
        message = f"{param}: the project has no bundle {named[:80]}, or no longer: send the code again (POST /v1/bundles)"
        raise Invalid(message, code="bundle_not_found", param=param)
    return row


def python_of(s: Session, project_id: str, named: Mapping[str, str], *, hold: bool = False) -> str:
    """The Python that the bundles of a job are of; empty where there are none. `named`: digests by their place in a request.

    Raises Invalid for one that is not there, and for two of different versions.
    """
    found = {place: by_name(s, project_id, digest, place, hold=hold).python for place, digest in named.items() if digest}
    if len(set(found.values())) > 1:
        (one, its), (other, theirs) = next((a, b) for a, b in itertools.pairwise(found.items()) if a[1] != b[1])
        message = f"{other}: its bundle is of Python {theirs}, that of {one} of {its}; a job runs under one Python: send both from one"
        raise Invalid(message, code="pythons_differ", param=other)
    return next(iter(found.values()), "")


def python_as_known(s: Session, project_id: str, digests: Iterable[str]) -> str:
    """The same of a job that was checked; also of bundles that were deleted since."""
    wanted = [digest for digest in digests if digest]
    query = select(Row.python).where(Row.project_id == project_id, Row.digest.in_(wanted)).limit(1)
    return (s.scalar(query) if wanted else None) or ""


def list_bundles(s: Session, project_id: str, page: Page, identity: str | None = None) -> Listing[Row]:
    query = select(Row).where(Row.project_id == project_id, Row.deleted_at.is_(None))
    return paginate(s, query.where(Row.identity == identity) if identity else query, Row.id, page)


def delete(s: Session, project_id: str, bundle_id: str) -> None:
    """Hide a bundle, and let go of its text: what was made of it cannot run any more. Raises NotFound."""
    by_digest.hide(s, Row, "bundle", project_id, bundle_id)
    audit.record(s, project_id, "bundle.deleted", bundle_id)
