"""Keys: who may ask."""

from __future__ import annotations

from pydantic import Field

from stillhouse.types.base import Object


class ApiKey(Object):
    """An API key without its secret. `status` is active, expired or revoked; `hint` is how its token begins."""

    id: str
    created_at: int
    label: str
    scopes: list[str] = Field(default_factory=list)
    hint: str = ""
    status: str = "active"
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None


class NewApiKey(ApiKey):
    """`token` is shown this once; None when the reply that had it was lost, so that the key is of no use to anybody."""

    token: str | None = None
