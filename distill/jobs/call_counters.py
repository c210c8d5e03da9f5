"""Adds what a relay asked of LM hosts to the counters, from a thread of its own. What a killed process had not written is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import counters
from distill.catalog.counters import LM_REQUEST_SECONDS, Increment, Labels
from distill.db import Door, unit_of_work
from distill.periodic import PeriodicThread
from distill.relay.calls import Answered, Attempt, CallLog

log = structlog.get_logger(__name__)
PERIOD_SECONDS = 10.0


class CallCounters:
    """From `start` to `stop`, which writes what is left."""

    def __init__(self, calls: CallLog, door: Door) -> None:
        self._calls = calls
        self._door = door
        self._thread = PeriodicThread("call-counters", PERIOD_SECONDS, self.write)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()
        self.write()

    def write(self) -> None:
        """What has come since the last time; while the database is away, it is kept."""
        taken = self._calls.take()
        try:
            with unit_of_work(self._door, waits=False) as s:
                counters.add(s, _summed(taken))
        except SQLAlchemyError as error:
            self._calls.put_back(taken)
            log.warning("calls_not_counted", calls=len(taken), error=type(error).__name__)


def _summed(calls: Iterable[Attempt | Answered]) -> list[Increment]:
    sums: Counter[tuple[str, Labels]] = Counter()
    for call in calls:
        for each in _increments(call):
            sums[each.name, each.labels] += each.amount  # type: ignore[assignment]
    return [Increment(name, labels, amount) for (name, labels), amount in sums.items()]


def _increments(call: Attempt | Answered) -> Iterable[Increment]:
    if isinstance(call, Attempt):
        yield Increment("lm_requests", (call.connection, call.outcome))
        yield from LM_REQUEST_SECONDS.observe((call.connection,), call.seconds)
        return
    yield Increment("lm_tokens", (call.connection, "prompt"), call.prompt_tokens)
    yield Increment("lm_tokens", (call.connection, "completion"), call.completion_tokens)
    if call.usd is not None:
        yield Increment("lm_cost_usd", (call.connection,), call.usd)
