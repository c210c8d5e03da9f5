"""A bundle as its readers see it."""

from __future__ import annotations

from app.schemas.bundles import BundleRead
from app.views.convert import seconds
from distill.catalog.bundle_rows import Bundle


def bundle_read(row: Bundle) -> BundleRead:
    return BundleRead(
        id=row.id,
        created_at=seconds(row.created_at),
        created_by=row.created_by,
        digest=row.digest,
        python=row.python,
        modules=row.modules,
        packages=row.packages,
        pickles=row.pickles,
        identity=row.identity,
        size=row.size_bytes,
    )
