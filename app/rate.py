"""How often something may be asked for: counted in Redis for all processes of the server, in this one alone while Redis does not answer."""

from __future__ import annotations

import math
import time

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter, RateLimiter
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from distill.errors import LimitExceeded
from distill.settings import Settings

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 0.25
"""A request waits no longer for Redis, and does not wait for it again for the time below."""
AWAY_SECONDS = 10.0
TESTS_PER_MINUTE = 10
SIGN_INS_PER_MINUTE = 60


class Rate:
    """Thread-safe. A minute begins with the first of what is counted. `said` is told to who asks too often, with `{times}` filled in."""

    def __init__(self, settings: Settings, times: int, said: str) -> None:
        self._limit = RateLimitItemPerMinute(times)
        self._said = said.format(times=times)
        self._local: RateLimiter = FixedWindowRateLimiter(MemoryStorage())
        self._shared: RateLimiter = FixedWindowRateLimiter(_storage(settings.redis_url))
        self._away_until = 0.0

    def check(self, counted: str) -> None:
        """Count one. Raises LimitExceeded, which says when the next minute begins."""
        if time.monotonic() >= self._away_until:
            try:
                return self._count(self._shared, counted)
            except RedisError as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                log.warning("rates_counted_alone", error=type(error).__name__)
        return self._count(self._local, counted)

    def _count(self, counter: RateLimiter, counted: str) -> None:
        if counter.hit(self._limit, counted):
            return
        left = counter.get_window_stats(self._limit, counted).reset_time - time.time()
        raise LimitExceeded(self._said, code="rate_limited", retry_after=max(1, math.ceil(left)))


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
