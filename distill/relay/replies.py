"""Replies that were paid for and have not become a trace yet: after a runner or a worker died, whoever asks the same again gets them.

They are in Redis, sealed, since it is trusted with nothing: what it has changed, or moved to another call, does not open. A reply is
removed once the trace of its rollout is committed, else when its time is over. Losing them all costs what was paid, and fails no call.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import orjson
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from distill import sealing
from distill.errors import StillhouseError
from distill.relay.targets import Target
from distill.settings import Settings

log = structlog.get_logger(__name__)

PREFIX = "sh:reply:"
MOST_BYTES = 256 * 1024
"""Of one reply that is kept; a longer one is paid for again."""
PATIENCE_SECONDS = 0.25
"""A call waits no longer for Redis, and none waits for it again for the time below."""
AWAY_SECONDS = 10.0


@dataclass(frozen=True)
class ReplyKey:
    """`digest` tells this call from all others; `rollout` is the one that it belongs to, in the words of the runner."""

    project_id: str
    rollout: str
    digest: str

    @classmethod
    def of(cls, project_id: str, target: Target, call: str, body: Mapping[str, Any]) -> Self:
        """`call` is `ROLLOUT/NAME`, the same whenever the rollout is run again. Two rollouts that ask the same are to differ."""
        asked = [project_id, target.connection, target.revision, target.model, call, target.body(body)]
        digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return cls(project_id, call.partition("/")[0], digest)

    @property
    def name(self) -> str:
        return PREFIX + self.digest

    @property
    def purpose(self) -> str:
        return f"reply:{self.project_id}:{self.digest}"


Command: TypeAlias = tuple[str | bytes | int, ...]


class _Line:
    """Commands on their way to Redis: those that come while others are under way go out together, at a fraction of what each would cost."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def ask(self, command: Command) -> Any:
        """Raises what the client of Redis does: RedisError, OSError, and with uvloop RuntimeError where a connection went away."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answered))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        return await answered

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            for (_, answered), answer in zip(batch, await self._exchange([command for command, _ in batch]), strict=True):
                if answered.done():  # who asked is gone
                    continue
                if isinstance(answer, Exception):
                    answered.set_exception(answer)
                else:
                    answered.set_result(answer)

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))
        except Exception as error:  # whatever it is: those who wait for an answer wait for this task alone
            return [error] * len(commands)

    async def close(self) -> None:
        await self._redis.aclose()


@dataclass
class _Rollout:
    """The replies of one rollout that this process has kept or found."""

    until: float
    sizes: dict[str, int]


class Replies:
    """For one event loop. `most_bytes` is what one process keeps at once, by its own account: the oldest rollouts' replies go first."""

    def __init__(self, url: str, seconds: float, most_bytes: int) -> None:
        # No tries beyond the first: the call would wait for all of them.
        redis = Redis.from_url(url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0))
        self._line = _Line(redis)
        self._milliseconds = max(1, int(seconds * 1000))
        self._most_bytes = most_bytes
        self._rollouts: OrderedDict[tuple[str, str], _Rollout] = OrderedDict()
        self._bytes = 0
        self._away_until = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """None where the operator wants none."""
        most = settings.limits.kept_replies_mb
        return cls(settings.redis_url, settings.timers.kept_reply_seconds, most * 1024 * 1024) if most else None

    async def find(self, key: ReplyKey) -> bytes | None:
        sealed = await self._ask("GET", key.name)
        if not isinstance(sealed, bytes):
            return None
        try:
            body = sealing.unseal(sealed, key.purpose)
        except StillhouseError:  # of before another sealing key, or none of ours
            return None
        self._note(key, len(sealed))
        return body

    async def keep(self, key: ReplyKey, body: bytes) -> None:
        if len(body) > MOST_BYTES:
            return
        try:
            sealed = sealing.seal(body, key.purpose)
        except StillhouseError as error:
            self._leave_alone(error)
            return
        if await self._ask("SET", key.name, sealed, "PX", self._milliseconds):
            self._note(key, len(sealed))
            await self._remove(self._beyond_bounds())

    async def forget(self, project_id: str, rollouts: Iterable[str]) -> None:
        """Their traces are committed."""
        await self._remove([name for rollout in rollouts for name in self._drop((project_id, rollout))])

    async def close(self) -> None:
        await self._line.close()

    def _note(self, key: ReplyKey, size: int) -> None:
        until = time.monotonic() + self._milliseconds / 1000
        rollout = self._rollouts.setdefault((key.project_id, key.rollout), _Rollout(until, {}))
        self._bytes += size - rollout.sizes.get(key.name, 0)
        rollout.sizes[key.name] = size

    def _drop(self, place: tuple[str, str]) -> list[str]:
        rollout = self._rollouts.pop(place, None)
        if rollout is None:
            return []
        self._bytes -= sum(rollout.sizes.values())
        return list(rollout.sizes)

    def _beyond_bounds(self) -> list[str]:
        """Names to remove; what has run out in Redis is only struck off."""
        names: list[str] = []
        now = time.monotonic()
        while self._rollouts:
            place, oldest = next(iter(self._rollouts.items()))
            if oldest.until > now and self._bytes <= self._most_bytes:
                break
            names += self._drop(place)
        return names

    async def _remove(self, names: list[str]) -> None:
        if names:
            await self._ask("UNLINK", *names)

    async def _ask(self, *command: str | bytes | int) -> Any:
        """None when Redis does not do it, or has lately not done so."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return await self._line.ask(command)
        except Exception as error:  # no reply that is kept is worth a call that fails
            self._leave_alone(error)
            return None

    def _leave_alone(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        log.warning("replies_not_kept", error=type(error).__name__)


def is_worth_keeping(answer: Mapping[str, Any]) -> bool:
    """Whether a runner can read it: one that it cannot is asked for again, and has to be another one then."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return isinstance(message, dict) and isinstance(message.get("content"), str | None)
