"""How often a key may ask: counted in Redis for all processes of the server, and in this process alone while Redis does not answer."""

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


class Rate:
    """Thread-safe. A minute begins with the first request of a key."""

    def __init__(self, settings: Settings) -> None:
        self._limit = RateLimitItemPerMinute(settings.limits.requests_per_minute)
        self._local: RateLimiter = FixedWindowRateLimiter(MemoryStorage())
        self._shared: RateLimiter = FixedWindowRateLimiter(_storage(settings.redis_url))
        self._away_until = 0.0

    def check(self, key_id: str) -> None:
        """Count one request. Raises LimitExceeded, which says when the next minute begins."""
        if time.monotonic() >= self._away_until:
            try:
                return self._count(self._shared, key_id)
            except RedisError as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                log.warning("rates_counted_alone", error=type(error).__name__)
        return self._count(self._local, key_id)

    def _count(self, counter: RateLimiter, key_id: str) -> None:
        if counter.hit(self._limit, key_id):
            return
        left = counter.get_window_stats(self._limit, key_id).reset_time - time.time()
        message = f"This key asked more than {self._limit.amount} times in a minute ([limits] requests_per_minute)."
        raise LimitExceeded(message, code="rate_limited", retry_after=max(1, math.ceil(left)))


def _storage(url: str) -> RedisStorage:
    # No tries beyond the first: who asks would wait for all of them.
    pool = ConnectionPool.from_url(
        url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0)
    )
    return RedisStorage(url, connection_pool=pool, key_prefix="sh:rate")
