"""Who did what to which object. Needs the scope `admin` or `operator`."""

from __future__ import annotations

from typing_extensions import TypedDict, Unpack

from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import AuditEntry


class AuditParams(TypedDict, total=False):
    """Only what was done by this key, to this object, or this way (`alias.moved`)."""

    action: str
    object_id: str
    key_id: str
    project: str
    """For operators: a project's name or id, or `*` for all."""
    limit: int
    after: str
    order: str


def _list(params: AuditParams) -> Call[Rows[AuditEntry]]:
    return list_call("/v1/audit_log", AuditEntry, dict(params))


class AuditLog(Resource):
    def list(self, **params: Unpack[AuditParams]) -> Page[AuditEntry]:
        """Newest first."""
        return Page(self._client, self._client.send(_list(params)))


class AsyncAuditLog(AsyncResource):
    async def list(self, **params: Unpack[AuditParams]) -> AsyncPage[AuditEntry]:
        """Newest first."""
        return AsyncPage(self._client, await self._client.send(_list(params)))
