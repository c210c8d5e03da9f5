"""A job's traces and scores: those that it has, and those that are sent in."""

from __future__ import annotations

from typing import Literal

from stillhouse._pages import AsyncPage, Page
from stillhouse._raw import many_responses
from stillhouse.resources import job_calls as calls
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.resources.work_items import Facts, send_calls, sum_of
from stillhouse.types import Stored, Trace

TraceSource = Literal["client", "import"]


class Traces(Resource):
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

    @many_responses
    def create(self, job_id: str, traces: Facts, *, source: TraceSource = "client") -> Stored:
        """Send traces in, as many as there are; `import` for those that nothing was paid for here. What is there already stays."""
        return sum_of([self._client.send(call) for call in send_calls(job_id, "traces", traces, source=source)])


class Scores(Resource):
    @many_responses
    def create(self, job_id: str, scores: Facts) -> Stored:
        """Send scores of traces in, as many as there are."""
        return sum_of([self._client.send(call) for call in send_calls(job_id, "scores", scores)])


class AsyncTraces(AsyncResource):
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

    @many_responses
    async def create(self, job_id: str, traces: Facts, *, source: TraceSource = "client") -> Stored:
        """Send traces in; see `Traces.create`."""
        return sum_of([await self._client.send(call) for call in send_calls(job_id, "traces", traces, source=source)])


class AsyncScores(AsyncResource):
    @many_responses
    async def create(self, job_id: str, scores: Facts) -> Stored:
        """Send scores of traces in, as many as there are."""
        return sum_of([await self._client.send(call) for call in send_calls(job_id, "scores", scores)])
