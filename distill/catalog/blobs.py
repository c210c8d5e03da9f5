"""The registry of blobs: what a row may point at. Also what ties the blob store to this database.

Whoever points at a blob registers it in the same transaction. Until that ends no collector takes it, and from then on it is pointed at.
"""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.models import Blob, ServerMeta
from distill.db import Session
from distill.errors import StorageError, StorageUnavailable
from distill.ids import new_id
from distill.storage import BlobStore, Source

_TRIES = 5


def register(s: Session, store: BlobStore, *digests: str) -> None:
    """Say that blobs in the store are in use, in the transaction that points at them.

    Raises StorageError for one that is not there: it had been unused for long, and was collected after it was put. It is to be put again.
    """
    wanted = sorted(set(digests))
    if not wanted:
        return
    rows = [{"digest": digest, "size_bytes": store.size(digest)} for digest in wanted]
    for _ in range(_TRIES):
        s.execute(insert(Blob).values(rows).on_conflict_do_nothing())
        if _hold(s, wanted) == len(wanted):
            break
    else:
        raise StorageUnavailable("blobs are being collected while they are put")
    s.execute(update(Blob).where(Blob.digest.in_(wanted), Blob.unused_since.is_not(None)).values(unused_since=None))
    for digest in wanted:
        store.size(digest)  # a collector may have come between putting and holding


def _hold(s: Session, digests: list[str]) -> int:
    """Lock those that are there against a collector, not against others who use them; how many there are."""
    query = select(Blob.digest).where(Blob.digest.in_(digests)).order_by(Blob.digest)
    return len(s.scalars(query.with_for_update(read=True, key_share=True)).all())


def put(s: Session, store: BlobStore, source: Source) -> str:
    """Store and register in one go; returns the digest."""
    digest = store.put(source)
    register(s, store, digest)
    return digest


def held(s: Session) -> tuple[int, int, int, int]:
    """How many blobs there are and their bytes, and how many of them no row points at, and their bytes."""
    unused = Blob.unused_since.is_not(None)
    query = select(func.count(), func.coalesce(func.sum(Blob.size_bytes), 0)).select_from(Blob)
    (number, size), (useless, waste) = s.execute(query).one(), s.execute(query.where(unused)).one()
    return number, int(size), useless, int(waste)


def store_id(s: Session) -> str:
    """The id that ties this database to its blob store; made at the first call."""
    s.execute(insert(ServerMeta).values(key="store_id", value=new_id("store")).on_conflict_do_nothing())
    return s.execute(select(ServerMeta.value).where(ServerMeta.key == "store_id")).scalar_one()


def _lacks_blobs(s: Session, store: BlobStore) -> bool:
    """Not to be asked of a large database often: there is no index."""
    newest = s.scalar(select(Blob.digest).order_by(Blob.created_at.desc()).limit(1))
    return newest is not None and not store.exists(newest)


def check_store(s: Session, store: BlobStore) -> None:
    """Tie a new store to this database, or refuse one that is another's. Every process calls it at start. Raises StorageError."""
    wanted, found = store_id(s), store.owner()
    if found is None and _lacks_blobs(s, store):
        raise StorageError(
            f"{store} is new and does not hold what the database {wanted} points at: is the right folder mounted, the right address "
            "given? Set [blobs] to where they are, or restore them: docs/how-to/backup-and-restore.md",
            code="wrong_store",
        )
    found = found or store.claim_for(wanted)
    if found != wanted:
        raise StorageError(
            f"{store} belongs to the database {found}, not to {wanted}: set [blobs] in stillhouse.toml, or DATABASE_URL, "
            "so that both name the same server",
            code="wrong_store",
        )
