"""The connections of a slice: one that does not take calls makes the slice give itself back; one that is tried is told of at once."""

from collections.abc import Mapping
from types import TracebackType

import structlog

from distill.catalog import connections, waits
from distill.db import unit_of_work
from distill.execute.work import Stopped, Work
from distill.jobs import events
from distill.relay import Relay, Target, Wait

log = structlog.get_logger(__name__)


class Reach:
    """Use it as a block around the calls. What it finds out of a connection is written down for all workers."""

    def __init__(self, work: Work, relay: Relay, targets: Mapping[str, Target]) -> None:
        self._work, self._relay = work, relay
        self._connections = {target.connection for target in targets.values()}
        self._trying = set(work.claim.tries)
        relay.begin(targets.values(), self._trying)

    def __enter__(self) -> "Reach":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.look()
        if self._trying:
            with unit_of_work() as s:
                waits.give_up_try(s, self._trying)

    def look(self) -> None:
        """After a call was answered: a connection that was tried waits no more."""
        answered = {each for each in self._trying & self._connections if self._relay.is_closed(each)}
        if answered:
            self._trying -= answered
            with unit_of_work() as s:
                waits.end(s, answered, self._work.claim.item_id)
            log.info("connections_answer_again", connections=sorted(answered))

    def check(self) -> None:
        """After trouble. Raises Stopped when it is a connection's, whose turn to wait has come: no attempt is spent on that."""
        found = self._relay.waits(self._connections)
        for connection, wait in found.items():
            self._limit(connection, wait)
        if found or self._waits_for_others():
            self._work.stop("wait")
            raise Stopped("wait")

    def fail_try(self) -> None:
        """After trouble that may be the examples' own. Raises Stopped where a connection was to be tried, and has not answered."""
        if self._trying & self._connections:
            with unit_of_work() as s:
                for each in self._trying & self._connections:
                    waits.limit(s, each, "unavailable", None, tried=True)
            self._trying -= self._connections
            self._work.stop("wait")
            raise Stopped("wait")

    def _waits_for_others(self) -> bool:
        """Another worker has found out, or the host has handed its device to a trainer."""
        with unit_of_work() as s:
            return bool(waits.names(s, self._connections - self._trying))

    def _limit(self, connection: str, wait: Wait) -> None:
        with unit_of_work() as s:
            begins = waits.limit(s, connection, wait.reason, wait.seconds, tried=connection in self._trying)
            name = connections.by_id(s, connection).name
        self._trying.discard(connection)
        log.warning("connection_waits", connection=name, reason=wait.reason, seconds=wait.seconds)
        if begins:
            with unit_of_work() as s:
                data = {"connection": name, "reason": wait.reason}
                events.append(s, self._work.claim.job_id, "warning", f"Waits for {name}: {waits.SAID[wait.reason]}", data, "warning")
