"""A job's traces and scores: those that it has, and those that are sent in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillhouse._pages import AsyncPage, Page
from stillhouse.resources import job_calls as calls
from stillhouse.resources.work_items import Facts, send_calls, sum_of
from stillhouse.types import Stored, Trace

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse

TraceSource = Literal["client", "import"]


class Traces:
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    def list(
        self,
        job_id: str,
        *,
        role: str | None = None,
        passed: bool | None = None,
        predictor: str | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> Page[Trace]:
        """The rollouts of a job with their scores; those that passed or did not, those that called a predictor."""
        wanted = calls.part(job_id, "traces", Trace, role=role, passed=passed, predictor=predictor, limit=limit, order=order)
        return Page(self._client, self._client.send(wanted))

    def create(self, job_id: str, traces: Facts, *, source: TraceSource = "client") -> Stored:
        """Send traces in, as many as there are; `import` for those that nothing was paid for here. What is there already stays."""
        return sum_of([self._client.send(call) for call in send_calls(job_id, "traces", traces, source=source)])


class Scores:
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    def create(self, job_id: str, scores: Facts) -> Stored:
        """Send scores of traces in, as many as there are."""
        return sum_of([self._client.send(call) for call in send_calls(job_id, "scores", scores)])


class AsyncTraces:
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    async def list(
        self,
        job_id: str,
        *,
        role: str | None = None,
        passed: bool | None = None,
        predictor: str | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> AsyncPage[Trace]:
        """The rollouts of a job with their scores; those that passed or did not, those that called a predictor."""
        wanted = calls.part(job_id, "traces", Trace, role=role, passed=passed, predictor=predictor, limit=limit, order=order)
        return AsyncPage(self._client, await self._client.send(wanted))

    async def create(self, job_id: str, traces: Facts, *, source: TraceSource = "client") -> Stored:
        """Send traces in; see `Traces.create`."""
        return sum_of([await self._client.send(call) for call in send_calls(job_id, "traces", traces, source=source)])


class AsyncScores:
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    async def create(self, job_id: str, scores: Facts) -> Stored:
        """Send scores of traces in, as many as there are."""
        return sum_of([await self._client.send(call) for call in send_calls(job_id, "scores", scores)])
