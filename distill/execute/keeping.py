"""What rollouts leave, on its way to the store, and who was there first: another job may have run the same ones meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from distill.catalog import scores, traces
from distill.catalog.scores import NewScore
from distill.catalog.traces import NewTrace
from distill.db import Session, unit_of_work
from distill.execute.hooks import crash_point
from distill.execute.ports import Ports
from distill.execute.rollout_slice import Json, Slice
from distill.execute.spending import Spending
from distill.execute.work import Work


class Keeping:
    """Writes traces and scores of slices. The first trace of a rollout stands, and whoever has another goes on with that one."""

    def __init__(self, work: Work, ports: Ports, spending: Spending, pieces: Sequence[Slice]) -> None:
        self._work, self._ports, self._spending, self._pieces = work, ports, spending, pieces
        self._lock = threading.Lock()
        self._others: dict[str, Json] = {}
        """Traces that others stored first, by their digests."""
        self._late = False
        """Something was not stored, since it was there."""
        self._asks_again = pieces[0].job.spec.rollouts.retry_failed

    def write(self, batch: list[NewTrace | NewScore]) -> None:
        """What is stored here is paid for no more, so the replies that it was made of are let go."""
        new = [row for row in batch if isinstance(row, NewTrace)]
        judged = [row for row in batch if isinstance(row, NewScore)]
        with unit_of_work() as s:
            self._spending.record(s)
            others = self._of_others(s, new) if traces.store(s, new) < len(new) else {}
            with self._lock:
                self._others |= others
                # A score is of this process's answer, and would stand beside another one.
                fitting = [row for row in judged if row.trace_digest not in self._others]
            late = scores.store(s, fitting, over_failed=self._asks_again) < len(judged)
        with self._lock:
            self._late |= late
        self._ports.relay.forget_replies(self._work.claim.project_id, [str(seed) for piece in self._pieces for seed in piece.seeds_of(new)])
        crash_point(f"{self._work.claim.step}.flushed")

    def _of_others(self, s: Session, new: Sequence[NewTrace]) -> dict[str, Json]:
        stored = traces.lookup(s, self._work.claim.project_id, [row.digest for row in new])
        return {row.digest: stored[row.digest].body for row in new if stored[row.digest].id != row.id}

    def settle(self, piece: Slice) -> bool:
        """Let a slice go on with what is stored, where others came first; False where nobody did. Nothing may be on its way."""
        with self._lock:
            others, late = self._others, self._late
            self._others, self._late = {}, False
        if others or late:
            with unit_of_work() as s:
                piece.go_on_with(s, others)
        return bool(others or late)
