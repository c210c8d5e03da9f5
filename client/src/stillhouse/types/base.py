"""The base of every reply."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Object(BaseModel):
    """Fields that this client does not know are kept and readable as attributes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Deleted(Object):
    id: str
    deleted: bool = True
