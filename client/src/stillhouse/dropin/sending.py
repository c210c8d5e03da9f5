"""Sends the traces and scores of a work item. What the server refuses is left out by itself, and does not hold up the rest of its batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIStatusError, BadRequestError, BodyTooLargeError, UnprocessableEntityError

Json = dict[str, Any]
_OF_ONE = (BadRequestError, BodyTooLargeError, UnprocessableEntityError)
"""Refusals of what a batch holds, which a part of it may not meet."""
_FEW = 2
"""When the server refuses more examples than these and takes none, the refusal is not about an example."""


class Outbox:
    """The traces and scores of one job that have not been sent. `refused` has the examples, by row, of which a fact was refused."""

    def __init__(self, client: Stillhouse, job: str) -> None:
        self._client, self._job = client, job
        self._traces: list[Json] = []
        self._scores: list[Json] = []
        self._sending = threading.Lock()
        self._refused: dict[tuple[int, int], APIStatusError] = {}
        self._any_taken = False

    def __len__(self) -> int:
        return len(self._traces)

    def add_trace(self, trace: Json) -> None:
        self._traces.append(trace)

    def add_score(self, score: Json) -> None:
        self._scores.append(score)

    @property
    def refused(self) -> dict[int, APIStatusError]:
        return {row: fault for (row, _), fault in list(self._refused.items())}  # a beat may add to it

    @property
    def common_refusal(self) -> APIStatusError | None:
        """The server's refusal when it took nothing and refused more than a few examples."""
        refused = self.refused
        return next(iter(refused.values())) if len(refused) > _FEW and not self._any_taken else None

    def raise_common_refusal(self) -> None:
        if (fault := self.common_refusal) is not None:
            raise fault

    def send(self) -> None:
        """Send everything. What the server has neither taken nor refused stays. Raises APIError."""
        with self._sending:
            scores = list(self._scores)
            traces = list(self._traces)  # read last: a score is sent after its trace
            self._divide(self._client.compile_jobs.traces.create, traces)
            del self._traces[: len(traces)]
            self._divide(self._client.compile_jobs.scores.create, scores)
            del self._scores[: len(scores)]

    def _divide(self, create: Callable[[str, Sequence[Json]], object], facts: Sequence[Json]) -> None:
        """Send facts, in halves where the server refuses them together."""
        facts = [fact for fact in facts if _place(fact) not in self._refused]
        if not facts:
            return
        try:
            create(self._job, facts)
        except _OF_ONE as fault:
            if len(facts) == 1:
                self._refused[_place(facts[0])] = fault
                return
            middle = len(facts) // 2
            self._divide(create, facts[:middle])
            self._divide(create, facts[middle:])
        else:
            self._any_taken = True


def _place(fact: Json) -> tuple[int, int]:
    return fact["row"], fact["rollout"]
