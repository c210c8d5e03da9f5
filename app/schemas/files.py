"""Files in OpenAI's shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.schemas.common import Reply


class FileRead(Reply):
    """OpenAI's `file`."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = Field(default="processed", description="Deprecated by OpenAI; a fine-tuning job says what is wrong")
    expires_at: int | None = Field(default=None, description="Files stay until they are deleted")
    status_details: str | None = None


class FileDeleted(Reply):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
