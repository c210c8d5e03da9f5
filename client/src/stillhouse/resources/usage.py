"""What the project has used, month by month, and who used it."""

from __future__ import annotations

from stillhouse import _request
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import Usage, UsageByKey


def _retrieve(month: str | None) -> Call[Usage]:
    return _request.get("/v1/usage", Usage, month=month)


def _by_key(days: int) -> Call[UsageByKey]:
    return _request.get("/v1/usage/keys", UsageByKey, days=days)


class UsageOfMonths(Resource):
    def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return self._client.send(_retrieve(month))

    def by_key(self, days: int = 7) -> UsageByKey:
        """Of the last days, by the API key that made the jobs."""
        return self._client.send(_by_key(days))


class AsyncUsageOfMonths(AsyncResource):
    async def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return await self._client.send(_retrieve(month))

    async def by_key(self, days: int = 7) -> UsageByKey:
        """Of the last days, by the API key that made the jobs."""
        return await self._client.send(_by_key(days))
