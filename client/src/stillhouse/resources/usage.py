"""What the project has used, month by month, and who used it."""

from __future__ import annotations

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import Usage, UsageByKey


def _retrieve(month: str | None, project: str | None) -> Call[Usage]:
    return _request.get("/v1/usage", Usage, month=month, project=project)


def _by_key(days: int, project: str | None) -> Call[UsageByKey]:
    return _request.get("/v1/usage/keys", UsageByKey, days=days, project=project)


def _by_project(month: str | None) -> Call[Rows[Usage]]:
    return list_call("/v1/usage/projects", Usage, {} if month is None else {"month": month})


class UsageOfMonths(Resource):
    def retrieve(self, month: str | None = None, *, project: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given. Operators may name another project."""
        return self._client.send(_retrieve(month, project))

    def by_key(self, days: int = 7, *, project: str | None = None) -> UsageByKey:
        """Of the last days, by the API key that made the jobs."""
        return self._client.send(_by_key(days, project))

    def by_project(self, month: str | None = None) -> Page[Usage]:
        """Of a month, each project that the key sees: for operators all of them."""
        return Page(self._client, self._client.send(_by_project(month)))


class AsyncUsageOfMonths(AsyncResource):
    async def retrieve(self, month: str | None = None, *, project: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given. Operators may name another project."""
        return await self._client.send(_retrieve(month, project))

    async def by_key(self, days: int = 7, *, project: str | None = None) -> UsageByKey:
        """Of the last days, by the API key that made the jobs."""
        return await self._client.send(_by_key(days, project))

    async def by_project(self, month: str | None = None) -> AsyncPage[Usage]:
        """Of a month, each project that the key sees: for operators all of them."""
        return AsyncPage(self._client, await self._client.send(_by_project(month)))
