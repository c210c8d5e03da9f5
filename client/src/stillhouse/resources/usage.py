"""What the project has used, month by month."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse import _request
from stillhouse._request import Call
from stillhouse.types.account import Usage

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse


def _retrieve(month: str | None) -> Call[Usage]:
    return _request.get("/v1/usage", Usage, month=month)


class UsageOfMonths:
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return self._client.send(_retrieve(month))


class AsyncUsageOfMonths:
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    async def retrieve(self, month: str | None = None) -> Usage:
        """Of a month (`2026-11`, by UTC); of this one unless given."""
        return await self._client.send(_retrieve(month))
