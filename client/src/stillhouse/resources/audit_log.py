"""Who did what to which object. Needs the scope `admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict, Unpack

from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.types.account import AuditEntry

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse


class AuditParams(TypedDict, total=False):
    """Only what was done by this key, to this object, or this way (`alias.moved`)."""

    action: str
    object_id: str
    key_id: str
    limit: int
    after: str
    order: str


def _list(params: AuditParams) -> Call[Rows[AuditEntry]]:
    return list_call("/v1/audit_log", AuditEntry, dict(params))


class AuditLog:
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    def list(self, **params: Unpack[AuditParams]) -> Page[AuditEntry]:
        """Newest first."""
        return Page(self._client, self._client.send(_list(params)))


class AsyncAuditLog:
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    async def list(self, **params: Unpack[AuditParams]) -> AsyncPage[AuditEntry]:
        """Newest first."""
        return AsyncPage(self._client, await self._client.send(_list(params)))
