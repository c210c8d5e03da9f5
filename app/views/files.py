"""Files as OpenAI's clients see them."""

from __future__ import annotations

from app.schemas.files import FileRead
from app.views.convert import seconds
from distill.catalog.models import File


def file_read(row: File) -> FileRead:
    return FileRead(id=row.id, bytes=row.size_bytes, created_at=seconds(row.created_at), filename=row.filename, purpose=row.purpose)
