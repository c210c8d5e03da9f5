"""How often something may be asked for: counted in Redis for all processes of the server, in this one alone while Redis does not answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from distill.errors import LimitExceeded
from distill.settings import Settings

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 0.25
"""A request waits no longer for Redis, and does not wait for it again for the time below."""
AWAY_SECONDS = 10.0
MINUTE_SECONDS = 60.0
TESTS_PER_MINUTE = 10
SIGN_INS_PER_MINUTE = 60


class Rate:
    """Thread-safe. A minute begins with the first of what is counted. `said` is told to who asks too often, with `{times}` filled in."""

    def __init__(self, settings: Settings, times: int, said: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = RateLimitItemPerMinute(times)
        self._said = said.format(times=times)
        self._local = _LocalCounts(times, clock)
        self._shared = FixedWindowRateLimiter(_storage(settings.redis_url))
        self._clock = clock
        self._away_until = clock()

    def check(self, counted: str) -> None:
        """Count one. Raises LimitExceeded, which says when the next minute begins."""
        left = self._seconds_left(counted)
        if left is not None:
            raise LimitExceeded(self._said, code="rate_limited", retry_after=max(1, math.ceil(left)))

    def _seconds_left(self, counted: str) -> float | None:
        """Until the next minute, where this one has had enough."""
        if self._clock() >= self._away_until:
            try:
                if self._shared.hit(self._limit, counted):
                    return None
                return self._shared.get_window_stats(self._limit, counted).reset_time - time.time()
            except RedisError as error:
                self._away_until = self._clock() + AWAY_SECONDS
                log.warning("rates_counted_alone", error=type(error).__name__)
        return self._local.hit(counted)


class _LocalCounts:
    """Of this process. Not by the memory storage of `limits`, which reads the wall clock: where that jumps, all pass or nobody does."""

    def __init__(self, times: int, clock: Callable[[], float]) -> None:
        self._times, self._clock = times, clock
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[float, int]] = {}
        """The end of each minute, and how often it was counted in it. Minutes are as long, so that the first ends first."""

    def hit(self, counted: str) -> float | None:
        """Count one. Where this minute has had enough: the seconds until the next."""
        now = self._clock()
        with self._lock:
            while self._counts and (first := next(iter(self._counts.items())))[1][0] <= now:
                del self._counts[first[0]]
            end, count = self._counts.get(counted, (now + MINUTE_SECONDS, 0))
            if count >= self._times:
                return end - now
            self._counts[counted] = end, count + 1
            return None


def of_keys(settings: Settings) -> Rate:
    said = "This key asked more than {times} times in a minute ([limits] requests_per_minute)."
    return Rate(settings, settings.limits.requests_per_minute, said)


def of_sign_ins(settings: Settings) -> Rate:
    """From one address, right or wrong."""
    return Rate(settings, SIGN_INS_PER_MINUTE, "More than {times} times in a minute somebody signed in from this address.")


def of_connection_tests(settings: Settings) -> Rate:
    """Of one project: each holds a thread until its host answers."""
    return Rate(settings, TESTS_PER_MINUTE, "This project tried connections more than {times} times in a minute.")


def _storage(url: str) -> RedisStorage:
    # No tries beyond the first: who asks would wait for all of them.
    pool = ConnectionPool.from_url(
        url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0)
    )
    return RedisStorage(url, connection_pool=pool, key_prefix="sh:rate")
