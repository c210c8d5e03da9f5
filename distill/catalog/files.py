"""Files of the OpenAI-shaped address: bytes as they were sent. Who trains on one reads its rows."""

from __future__ import annotations

from sqlalchemy import func, select, update

from distill.catalog import audit, blobs
from distill.catalog.models import File
from distill.db import Listing, Page, Session, paginate
from distill.errors import NotFound
from distill.ids import new_id
from distill.storage import BlobStore


def add(s: Session, store: BlobStore, project_id: str, digest: str, *, filename: str, purpose: str, created_by: str | None = None) -> File:
    """A file of the project, whose bytes are in the store."""
    blobs.register(s, store, digest)
    row = File(
        id=new_id("file"),
        project_id=project_id,
        purpose=purpose,
        filename=filename,
        digest=digest,
        size_bytes=store.size(digest),
        created_by=created_by,
    )
    s.add(row)
    s.flush()
    return row


def get(s: Session, project_id: str, file_id: str, param: str = "id") -> File:
    """Raises NotFound; a deleted file is not found either."""
    row = s.scalar(select(File).where(File.id == file_id, File.project_id == project_id, File.deleted_at.is_(None)))
    if row is None:
        raise NotFound(f"no file {file_id}", code="file_not_found", param=param)
    return row


def list_files(s: Session, project_id: str, page: Page, purpose: str | None = None) -> Listing[File]:
    query = select(File).where(File.project_id == project_id, File.deleted_at.is_(None))
    return paginate(s, query.where(File.purpose == purpose) if purpose else query, File.id, page)


def delete(s: Session, project_id: str, file_id: str) -> None:
    """Fine-tuning jobs that were given it keep what they need of it. Raises NotFound."""
    get(s, project_id, file_id)
    s.execute(update(File).where(File.id == file_id).values(deleted_at=func.clock_timestamp()))
    audit.record(s, project_id, "file.deleted", file_id)
