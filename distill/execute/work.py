"""A claimed work item while it is worked on: it beats, carries progress, hears the word to stop, and publishes."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Any, Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.db import Session, repeated, unit_of_work
from distill.errors import JobFault, LostLease
from distill.execute.hooks import crash_point
from distill.jobs import claims
from distill.jobs.claims import Also, Claim, OnClosed
from distill.settings import get_settings

log = structlog.get_logger(__name__)

StopReason = Literal["lost", "cancel", "pause", "drain", "wait"]
_STRENGTH: Mapping[StopReason, int] = {"pause": 0, "wait": 1, "drain": 1, "cancel": 2, "lost": 3}
OnStop = Callable[[StopReason], None]


class Stopped(Exception):
    """The work was asked to stop. After `lost` nothing may be written for the item; after the others it is released."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


class Troubled(Exception):
    """The item could not be finished now, through no fault of the program. `again`: another attempt may go better by itself."""

    def __init__(self, code: str, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.fault = JobFault(code, message, "system", retryable=True)
        self.again = again


class Work:
    """Use it as a block: beats start with it and end with it."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._timers = get_settings().timers
        self._kept_at = time.monotonic()
        """When the lease was last asked for: it lasts for longer than a lease from then, if it was given."""
        self._progress: dict[str, Any] | None = None
        self._stop_reason: StopReason | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._on_stop: list[OnStop] = []
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._beat_until_the_end,), name=f"beat-{claim.item_id}", daemon=True
        )

    def __enter__(self) -> "Work":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def progress(self, **facts: Any) -> None:
        """What the next beat tells: any JSON; `message` becomes the event's text."""
        self._progress = facts

    @property
    def told(self) -> Mapping[str, Any] | None:
        """How far it is."""
        return self._progress

    @property
    def stop_reason(self) -> StopReason | None:
        return self._stop_reason

    def is_held(self) -> bool:
        """False once the lease may be another's: this process stood still for so long that nobody could tell it so."""
        return self._stop_reason != "lost" and time.monotonic() - self._kept_at < self._timers.lease_seconds

    def check(self) -> None:
        """Raises Stopped when the work is to stop."""
        if self._stop_reason is not None:
            raise Stopped(self._stop_reason)

    def wait(self, seconds: float) -> None:
        """Pause; raises Stopped as soon as the work is to stop."""
        self._stopping.wait(seconds)
        self.check()

    def stop(self, reason: StopReason) -> None:
        """Ask the work to stop. A stronger reason takes the place of a weaker one: a pause leaves time that a cancel does not."""
        with self._lock:
            if self._stop_reason is not None and _STRENGTH[reason] <= _STRENGTH[self._stop_reason]:
                return
            self._stop_reason = reason
            heard = list(self._on_stop)
        self._stopping.set()
        log.info("work_stops", item_id=self.claim.item_id, job_id=self.claim.job_id, reason=reason)
        for tell in heard:
            tell(reason)

    @contextmanager
    def telling(self, on_stop: OnStop) -> Iterator[None]:
        """While the block runs, `on_stop` is called (from another thread) when the work is to stop, or at once if it already is."""
        with self._lock:
            self._on_stop.append(on_stop)
            already = self._stop_reason
        if already is not None:
            on_stop(already)
        try:
            yield
        finally:
            with self._lock:
                self._on_stop.remove(on_stop)

    def publish(
        self,
        *,
        counts: Mapping[str, int | float] | None = None,
        result: Mapping[str, Any] | None = None,
        before: Also | None = None,
        locked: Also | None = None,
        on_closed: OnClosed | None = None,
        later: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """End the item with success, in one transaction with what else it writes. Raises Stopped, LostLease, CancelRequested.

        `before` writes what belongs to this item alone. `locked` writes what others of the job may write too: it runs with the job's
        row locked, and before `on_closed`, which runs if this closes the step. What is finished is published also when the job is to
        pause, or the worker to drain.
        """
        if self._stop_reason in ("cancel", "lost"):
            raise Stopped(self._stop_reason)
        crash_point(f"{self.claim.step}.before_publish")

        def write(s: Session) -> None:
            if before is not None:
                before(s)
            claims.publish(s, self.claim, counts=counts, result=result, locked=locked, on_closed=on_closed, later=later)

        repeated(write)  # the fence lets it through once: a repeat after a commit that went through is a lost lease
        self._ended.set()
        crash_point(f"{self.claim.step}.after_publish")

    def _beat_until_the_end(self) -> None:
        while not self._ended.wait(self._timers.beat_seconds):
            asked_at = time.monotonic()
            try:
                self._beat()
                self._kept_at = asked_at
            except LostLease:
                self.stop("lost")
            except SQLAlchemyError as error:
                log.warning("beat_failed", error=str(error))
                if time.monotonic() - self._kept_at > self._timers.lease_seconds - 2 * self._timers.beat_seconds:
                    self.stop("lost")

    def _beat(self) -> None:
        with unit_of_work(waits=False) as s:  # a beat that waits does not see that the lease is running out
            reply = claims.beat(s, self.claim, self._progress)
        if self._ended.is_set():
            return  # published while this beat was under way
        if reply.lost:
            self.stop("lost")
        elif reply.cancel:
            self.stop("cancel")
        elif reply.pause:
            self.stop("pause")
