"""The registry of blobs: what a row may point at. Also what ties the blob store to this database."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.models import Blob, ServerMeta
from distill.db import Session
from distill.ids import new_id
from distill.storage import FolderStore, Source


def register(s: Session, digest: str, size_bytes: int) -> None:
    """Say that a blob in the store is in use, in the transaction that points at it."""
    s.execute(insert(Blob).values(digest=digest, size_bytes=size_bytes).on_conflict_do_nothing())


def put(s: Session, store: FolderStore, source: Source) -> str:
    """Store and register in one go; returns the digest."""
    digest = store.put(source)
    register(s, digest, store.size(digest))
    return digest


def store_id(s: Session) -> str:
    """The id that ties this database to its blob store; made at the first call."""
    s.execute(insert(ServerMeta).values(key="store_id", value=new_id("store")).on_conflict_do_nothing())
    return s.execute(select(ServerMeta.value).where(ServerMeta.key == "store_id")).scalar_one()


def check_store(s: Session, store: FolderStore) -> None:
    """Tie a new store to this database, or refuse another one's. Every process calls it at start. Raises StorageError."""
    store.claim_for(store_id(s))
