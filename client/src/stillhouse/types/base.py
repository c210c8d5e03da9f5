"""The base of every reply."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Object(BaseModel):
    """Fields that this client does not know are kept and readable as attributes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Deleted(Object):
    id: str
    deleted: bool = True


class Deletion(Object):
    """What deleting an object did, or with `dry_run` would do."""

    id: str
    object: str
    deleted: bool
    removes: dict[str, int] | None = None
    """With `dry_run`: how many of each kind; `bytes` are those of its blobs."""
    blocked_by: list[str] = []
    """With `dry_run`: why it would be refused."""
    notes: list[str] = []
    """With `dry_run`: what stays, and what else to know."""
