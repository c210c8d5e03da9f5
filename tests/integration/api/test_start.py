"""An API and a worker that start at the same moment on a new database."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from app.services import Services
from distill.catalog import blobs, connections
from distill.db import unit_of_work
from distill.settings import get_settings
from distill.storage import open_store


async def start_api() -> None:
    async with Services(get_settings()):
        pass


def somebody_waits() -> bool:
    with unit_of_work() as s:
        return bool(s.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


def test_a_worker_that_starts_meanwhile_is_waited_for(database: str) -> None:
    """Both write down the database's store and the connections; in one order, so that neither is the other's deadlock."""
    settings = get_settings()
    with ThreadPoolExecutor(1) as pool:
        with unit_of_work() as s:
            blobs.check_store(s, open_store(settings))
            api = pool.submit(asyncio.run, start_api())
            pause = threading.Event()
            while not somebody_waits() and not api.done():
                pause.wait(0.01)
            connections.sync(s, settings, disable_others=False)
        api.result()
