"""aiohttp over the connections that a runner is handed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from distill.relay import RunnerConnections

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler


class RunnerConnector(aiohttp.BaseConnector):
    """For one event loop."""

    def __init__(self, connections: RunnerConnections, **more: Any) -> None:
        super().__init__(limit=0, **more)
        self._connections = connections

    async def _create_connection(self, *_: object) -> ResponseHandler:
        connection = self._connections.connect()
        made = await asyncio.get_running_loop().create_unix_connection(self._factory, sock=connection)
        return made[1]
