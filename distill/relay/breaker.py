"""Whether a connection is worth calling now: places in flight, and a breaker that opens on trouble which the next call would meet too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from distill.relay.limiter import InFlight
from distill.relay.targets import RelayLimits

WaitReason = Literal["rate_limited", "quota_exhausted", "unavailable"]


@dataclass(frozen=True)
class Wait:
    """Why a connection is not called. `seconds` is what its host asked for, where it said so."""

    reason: WaitReason
    seconds: float | None = None


@dataclass(frozen=True)
class Trouble:
    """An attempt that may go better later. `certain`: it is the connection's, whatever was asked; else it may be the request's own."""

    code: str
    request: bytes
    retry_after: float | None = None
    certain: bool = False

    @property
    def reason(self) -> WaitReason:
        return self.code if self.code in ("rate_limited", "quota_exhausted") else "unavailable"  # type: ignore[return-value]


class Breaker:
    """Closed, open (nothing is called), or half open (calls are let through, and the first that tells decides). Safe from any thread.

    It opens at once when the host says how long to stay away, or that the quota is used up; otherwise after some seconds in which nothing
    succeeded: refused or rate limited, or failures of several *different* requests, since one request may fail by its own fault.
    """

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._epoch = 0
        self._wait: Wait | None = None
        self._until = 0.0
        self._not_before = 0.0
        self._failing_since = 0.0
        self._requests: set[bytes] = set()
        self._trying = False

    @property
    def is_closed(self) -> bool:
        return self._wait is None

    def waits(self) -> Wait | None:
        """Why it is open, or was when it was last heard of; None once it is closed, and while a try is under way."""
        with self._lock:
            return None if self._trying else self._wait

    def admit(self) -> int | None:
        """A ticket for one attempt, which its outcome is reported with; None while nothing is called."""
        with self._lock:
            return None if self._wait is not None and time.monotonic() < self._until else self._epoch

    def pause_seconds(self) -> float:
        """How long the host asked all callers to pause."""
        return max(0.0, self._not_before - time.monotonic())

    def retry_seconds(self) -> float:
        """Until calls are let through again."""
        return max(0.0, self._until - time.monotonic())

    def begin(self, *, probing: bool) -> None:
        """What all workers know of the connection wins over what this process does: it may be called again, or be tried."""
        with self._lock:
            if probing:
                self._wait, self._until, self._trying = self._wait or Wait("unavailable"), 0.0, True
                self._forget()
            elif self._wait is not None:
                self._close()

    def succeeded(self, ticket: int) -> None:
        """The host has answered. An answer to a call from before the breaker opened says nothing about now."""
        with self._lock:
            if ticket == self._epoch:
                self._close()

    def failed(self, ticket: int, trouble: Trouble) -> None:
        with self._lock:
            if ticket != self._epoch:
                return
            now = time.monotonic()
            self._note(trouble, now)
            if self._is_enough(trouble, now):
                self._open(Wait(trouble.reason, trouble.retry_after), now)

    def _note(self, trouble: Trouble, now: float) -> None:
        self._requests.add(trouble.request)
        self._failing_since = self._failing_since or now
        if trouble.retry_after is not None:
            self._not_before = max(self._not_before, now + min(trouble.retry_after, self._limits.longest_pause_seconds))

    def _is_enough(self, trouble: Trouble, now: float) -> bool:
        if trouble.code == "quota_exhausted" or (trouble.retry_after or 0.0) > self._limits.longest_pause_seconds:
            return True
        lasting = self._wait is not None or now - self._failing_since >= self._limits.breaker_seconds
        return lasting and (trouble.certain or len(self._requests) >= self._limits.breaker_requests)

    def _open(self, wait: Wait, now: float) -> None:
        self._wait, self._trying = wait, False
        self._until = now + (self._limits.rest_seconds if wait.seconds is None else min(wait.seconds, self._limits.longest_rest_seconds))
        self._forget()

    def _close(self) -> None:
        if self._wait is not None:
            self._until = self._not_before = 0.0
        self._wait, self._trying = None, False
        self._failing_since = 0.0
        self._requests = set()

    def _forget(self) -> None:
        """Calls that are under way belong to an earlier epoch from now on."""
        self._epoch += 1
        self._failing_since = 0.0
        self._requests = set()


class Gate:
    """What stands before one connection, for all calls of this process. While its breaker is not closed, one call goes at a time."""

    def __init__(self, limit: int, limits: RelayLimits) -> None:
        self.places = InFlight(limit)
        self.breaker = Breaker(limits)
        self._limit = limit
        self._changed_at = 0.0

    def resize(self, limit: int) -> None:
        self._limit = limit
        self.fit()

    def fit(self) -> None:
        """After whatever may have opened or closed the breaker."""
        wanted = self._limit if self.breaker.is_closed else 1
        if self.places.limit != wanted:
            self.places.resize(wanted)

    def begin(self, *, probing: bool) -> None:
        self.breaker.begin(probing=probing)
        self.fit()

    def follow(self, changed_at: float) -> None:
        """A connection that was changed since, its key for one, may be called whatever came of the one before."""
        if changed_at > self._changed_at:
            self._changed_at = changed_at
            self.begin(probing=False)

    def succeeded(self, ticket: int) -> None:
        self.breaker.succeeded(ticket)
        self.fit()

    def failed(self, ticket: int, trouble: Trouble) -> None:
        self.breaker.failed(ticket, trouble)
        self.fit()


def waits_of(gates: Iterable[tuple[str, Gate]]) -> dict[str, Wait]:
    """Those of these connections that do not take calls, and why."""
    found = ((connection, gate.breaker.waits()) for connection, gate in gates)
    return {connection: wait for connection, wait in found if wait is not None}
