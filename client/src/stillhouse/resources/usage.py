"""What the project has used, month by month."""

from __future__ import annotations

from stillhouse import _request
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import Usage


def _retrieve(month: str | None) -> Call[Usage]:
    return _request.get("/v1/usage", Usage, month=month)


class UsageOfMonths(Resource):
    def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return self._client.send(_retrieve(month))


class AsyncUsageOfMonths(AsyncResource):
    async def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return await self._client.send(_retrieve(month))
