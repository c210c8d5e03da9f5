"""A thread beside the dispatcher that delivers webhooks: a slow receiver holds up no hint, no reaping, and few other receivers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar, TypeVarTuple

import aiohttp
import structlog
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks.webhooks import Webhook

from distill.catalog import webhooks
from distill.catalog.webhooks import Parcel
from distill.db import unit_of_work
from distill.egress import PublicResolver, check_url, why_not_reached
from distill.errors import StillhouseError
from distill.settings import Settings

log = structlog.get_logger(__name__)
_Words = TypeVarTuple("_Words")
_Given = TypeVar("_Given")
AT_ONCE = 32
AT_ONCE_EACH = 4
"""To one endpoint."""
AT_ONCE_UNPROVEN = 24
"""To endpoints that did not answer their last try soon, or have had none by this process: the other places are for those that do."""
AT_ONCE_SILENT = 16
"""To endpoints that did not: the other places of the unproven are for those of which nothing is known."""
SOON_SECONDS = 2.0
"""Whoever takes longer for an answer holds up others as one that gives none."""
_LOOK_UPS = 4 * AT_ONCE
"""Threads: a name that nobody answers for takes its resolver some times as long as a try may last."""
_ROWS = 4
"""Threads that read and write deliveries, or wait for the next look."""
_AGENT = "Stillhouse-Webhooks"
_NOT_REACHED = {
    "address_not_allowed": "its host has an address that is not public",
    "tls": "its certificate is not valid",
    "name_not_found": "its host has no address",
    "refused": "it could not be reached",
    "broken": "the connection broke",
}
"""In words that tell a project nothing of the network that the server is in."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a try: a status, or why there was none, in words for the delivery log."""

    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many deliveries may be begun now, and to whom: not to `busy` endpoints, and to those in `only` where it is given."""

    many: int
    busy: frozenset[str]
    only: frozenset[str] | None


class Places:
    """Who is being told something. One that hangs holds its places for as long as a try may last, however many of its kind there are."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._answering: set[str] = set()
        self._silent: set[str] = set()

    def room(self) -> Room:
        """None takes more than `AT_ONCE_EACH` places, the unproven together no more than theirs, nor the silent among them."""
        left, of_unproven = AT_ONCE - self._under_way.total(), AT_ONCE_UNPROVEN - self._held(lambda each: each not in self._answering)
        busy = frozenset(endpoint for endpoint, number in self._under_way.items() if number >= AT_ONCE_EACH)
        if of_unproven <= 0:
            return Room(min(left, AT_ONCE_EACH), busy, frozenset(self._answering))
        of_silent = AT_ONCE_SILENT - self._held(lambda each: each in self._silent)
        if of_silent <= 0:
            return Room(min(left, of_unproven, AT_ONCE_EACH), busy | self._silent, None)
        return Room(min(left, of_unproven, of_silent, AT_ONCE_EACH), busy, None)

    def _held(self, by: Callable[[str], bool]) -> int:
        return sum(number for endpoint, number in self._under_way.items() if by(endpoint))

    def begin(self, endpoint: str) -> None:
        self._under_way[endpoint] += 1

    def end(self, endpoint: str, *, soon: bool) -> None:
        """`soon`: with an answer, in time."""
        self._under_way[endpoint] -= 1
        if not self._under_way[endpoint]:
            del self._under_way[endpoint]
        now, no_more = (self._answering, self._silent) if soon else (self._silent, self._answering)
        now.add(endpoint)
        no_more.discard(endpoint)


class WebhookSender:
    """Ends with its process, at any moment: a try that was cut off is made again by the next sender."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._places = Places()
        self._rows = ThreadPoolExecutor(_ROWS, "webhooks-rows")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the tries that are under way have ended."""
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        # A look-up of a name cannot be cancelled: it outlives its try. asyncio makes them in its default executor.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_LOOK_UPS, "webhooks-look-up"))
        with self._rows:
            await self._send()

    async def _send(self) -> None:
        connector = aiohttp.TCPConnector(resolver=PublicResolver(self._settings.egress.hosts), limit=AT_ONCE, force_close=True)
        timeout = aiohttp.ClientTimeout(total=self._settings.timers.webhook_seconds)
        # No cookies, no proxy of the environment: a delivery says what its row says.
        session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        async with session, asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                room = self._places.room()
                parcels = await self._in_rows(_take, room)
                for parcel in parcels:
                    self._places.begin(parcel.endpoint_id)
                    group.create_task(self._deliver(session, parcel))
                if len(parcels) < max(room.many, 1):  # else there may be more
                    await self._in_rows(self._stopping.wait, self._settings.timers.dispatch_poll_seconds)

    async def _in_rows(self, act: Callable[[*_Words], _Given], *words: *_Words) -> _Given:
        return await asyncio.get_running_loop().run_in_executor(self._rows, act, *words)

    async def _deliver(self, session: aiohttp.ClientSession, parcel: Parcel) -> None:
        soon, began = False, time.monotonic()
        try:
            reply = await self._post(session, parcel)
            soon = reply.status is not None and time.monotonic() - began < SOON_SECONDS
            await self._in_rows(_record, parcel, reply)
        except Exception:  # a fault of ours costs this try, not all deliveries of all projects
            log.exception("delivery failed", delivery=parcel.id)
        finally:
            self._places.end(parcel.endpoint_id, soon=soon)

    async def _post(self, session: aiohttp.ClientSession, parcel: Parcel) -> Reply:
        """Of the answer only the status is read: a redirect is not followed, and what a receiver writes is nobody's business."""
        try:
            check_url(parcel.url, self._settings.egress.hosts)
            headers = signed(parcel)
            async with session.post(parcel.url, data=parcel.body.encode(), headers=headers, allow_redirects=False) as answer:
                return Reply(answer.status, None if answer.status < 300 else f"it answered {answer.status}")
        except StillhouseError as error:
            return Reply(error=error.message)
        except TimeoutError:
            return Reply(error=f"it did not answer within {self._settings.timers.webhook_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Reply(error=_NOT_REACHED[why_not_reached(error)])


def signed(parcel: Parcel) -> dict[str, str]:
    """The headers of Standard Webhooks, over the body as it is sent. Raises CannotOpen."""
    at = datetime.now(UTC)
    signature = Webhook(parcel.secret).sign(msg_id=parcel.id, timestamp=at, data=parcel.body)
    return {
        "content-type": "application/json",
        "user-agent": _AGENT,
        "webhook-id": parcel.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }


def _take(room: Room) -> list[Parcel]:
    """None while the database is away."""
    try:
        with unit_of_work() as s:
            return webhooks.take(s, room.many, room.busy, room.only) if room.many else []
    except SQLAlchemyError as error:
        log.warning("webhooks not taken", error=str(error), kind=type(error).__name__)
        return []


def _record(parcel: Parcel, reply: Reply) -> None:
    """While the database is away the try counts for nothing, and is made again."""
    try:
        with unit_of_work() as s:
            webhooks.record(s, parcel, reply.status, reply.error)
    except SQLAlchemyError as error:
        log.warning("delivery not recorded", delivery=parcel.id, error=str(error), kind=type(error).__name__)
