"""Compile jobs: create, follow, stop, read what they made."""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Unpack

from stillhouse._lines import lines, lines_async
from stillhouse._pages import AsyncPage, Page
from stillhouse._progress import OnUpdate, resumable, watcher
from stillhouse._raw import many_responses
from stillhouse._request import Cascade
from stillhouse._wait import Deadline, apatiently, patiently
from stillhouse.resources import job_calls as calls
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.resources.job_events import AsyncEvents, Events
from stillhouse.resources.traces import AsyncScores, AsyncTraces, Scores, Traces
from stillhouse.types import (
    CancelledJob,
    CancelManyParams,
    CompileJob,
    Cost,
    Coverage,
    Curve,
    Deletion,
    DryRun,
    Estimate,
    Evaluation,
    FineTuneJob,
    JobCreateParams,
    JobListParams,
    JobUpdateParams,
    Pair,
    RefilterParams,
    Rejection,
    TrainingFile,
    TrainingLog,
)

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse

RecordFormat = Literal["trl", "openai"]
RecordPart = Literal["train", "validation"]


class CompileJobs(Resource):
    def __init__(self, client: Stillhouse) -> None:
        super().__init__(client)
        self.events = Events(client)
        self.scores = Scores(client)
        self.traces = Traces(client)

    def create(self, *, idempotency_key: str | None = None, if_changed: bool = False, **params: Unpack[JobCreateParams]) -> CompileJob:
        """Start a compile job. The same `idempotency_key` again returns the same job.

        With `if_changed`, a job that would give the same result (equal `spec_digest`: same rows, same options) is returned instead of a
        new one, if it has its artifact still or is under way.

        Raises:
            UnprocessableEntityError: `param` and `details` name the field and the rows; nothing was stored.
        """
        return self._client.send(calls.create(params, idempotency_key, if_changed))

    def dry_run(self, **params: Unpack[JobCreateParams]) -> DryRun:
        """Have everything checked that `create` checks, and nothing stored. Raises as `create`."""
        return self._client.send(calls.dry_run(params))

    def estimate(self, **params: Unpack[JobCreateParams]) -> Estimate:
        """What `create` with these arguments would ask and cost; nothing is stored, no LM is called. Raises as `create`."""
        return self._client.send(calls.estimate(params))

    def retrieve(self, job_id: str, *, wait: float | None = None) -> CompileJob:
        """The job; with `wait` (seconds, at most 60) as soon as it changes."""
        return self._client.send(calls.retrieve(job_id, wait))

    def list(self, **params: Unpack[JobListParams]) -> Page[CompileJob]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(calls.list_jobs(params)))

    def update(self, job_id: str, *, if_match: str | None = None, **params: Unpack[JobUpdateParams]) -> CompileJob:
        """Change a job's name, priority, metadata or budget; a job that its budget paused goes on when it is resumed.

        Raises:
            PreconditionFailedError: with `if_match=job.etag`, when somebody else has changed the job since.
        """
        return self._client.send(calls.update(job_id, params, if_match))

    def start(self, job_id: str) -> CompileJob:
        """Start a job that was created with `auto_start=False`."""
        return self._client.send(calls.verb(job_id, "start"))

    def cancel(self, job_id: str) -> CompileJob:
        """Ask the job to stop; it reports `cancelled` when its running work has stopped."""
        return self._client.send(calls.verb(job_id, "cancel"))

    def delete(self, job_id: str, *, dry_run: bool = False, cascade: Cascade | None = None) -> Deletion:
        """Erase a job that is over, with its details and the traces that no other job used; with `dry_run`, only say what that removes.

        Raises:
            ConflictError: it is not over, or has an artifact or models and `cascade="artifacts"` is not given.
        """
        return self._client.send(calls.delete(job_id, dry_run=dry_run, cascade=cascade))

    @many_responses
    def cancel_all(self, **params: Unpack[CancelManyParams]) -> Sequence[CancelledJob]:
        """Ask all open jobs that meet every filter to stop, and return them."""
        found: builtins.list[CancelledJob] = []
        while True:
            page = self._client.send(calls.cancel_many(params))
            found += page.data
            if not page.has_more:
                return found

    def pause(self, job_id: str) -> CompileJob:
        """Ask the job to stand still with all it has; it reports `paused` when its running work has stopped."""
        return self._client.send(calls.verb(job_id, "pause"))

    def resume(self, job_id: str) -> CompileJob:
        """Let a paused job go on where it stood."""
        return self._client.send(calls.verb(job_id, "resume"))

    @many_responses
    def wait(self, job_id: str, *, timeout: float | None = None, progress: bool = False, on_update: OnUpdate | None = None) -> CompileJob:
        """Wait until the job is final, or paused, and return it, whatever its status. `progress` shows a bar,
        or lines where there is no terminal.

        A server that is away on the way is waited for, up to ten minutes.

        Raises:
            WaitTimeout: after `timeout` seconds; the job goes on.
        """
        deadline = Deadline(timeout)
        with resumable(job_id, progress), watcher(progress, on_update) as update:
            job = self.retrieve(job_id)
            update(job)
            while not job.stands_still:
                job = patiently(partial(self._poll, job, deadline))
                update(job)
        return job

    def _poll(self, job: CompileJob, deadline: Deadline) -> CompileJob:
        return self.retrieve(job.id, wait=deadline.next_wait(job))

    def retry(self, job_id: str, *, fine_tuning_job: str | None = None, idempotency_key: str | None = None) -> CompileJob:
        """Let a failed job go on where it failed; with a fine-tune job named, of the failed ones only that one."""
        return self._client.send(calls.retry(job_id, fine_tuning_job, idempotency_key))

    def refilter(self, job_id: str, *, idempotency_key: str | None = None, **params: Unpack[RefilterParams]) -> CompileJob:
        """Start another job from this one's traces: another bar, another prompt adapter, another student. No teacher is called."""
        return self._client.send(calls.refilter(job_id, params, idempotency_key))

    def logs(self, job_id: str, *, fine_tuning_job: str | None = None, tail: int | None = None) -> Page[TrainingLog]:
        """What the trainer wrote, one log for each fine-tune job; of each at most the last `tail` lines."""
        wanted = calls.part(job_id, "logs", TrainingLog, fine_tuning_job=fine_tuning_job, tail=tail)
        return Page(self._client, self._client.send(wanted))

    def rejections(
        self,
        job_id: str,
        *,
        reason: str | None = None,
        predictor: str | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> Page[Rejection]:
        """What was not trained on, and why."""
        wanted = calls.part(job_id, "rejections", Rejection, reason=reason, predictor=predictor, limit=limit, order=order)
        return Page(self._client, self._client.send(wanted))

    def training_files(self, job_id: str) -> Page[TrainingFile]:
        """The files that its trainings learn from, each with its number of rows."""
        return Page(self._client, self._client.send(calls.part(job_id, "training_files", TrainingFile)))

    def coverage(self, job_id: str) -> Coverage | None:
        """What became of the traces, for each key and predictor; None until `prepare` is done."""
        return self._client.send(calls.coverage(job_id))

    @many_responses
    def download_training_file(
        self, job_id: str, fine_tuning_job: str, path: str | Path, *, format: RecordFormat = "trl", part: RecordPart = "train"
    ) -> Path:
        """Write a training file to `path`, and return that: the same bytes every time."""
        with self._client.stream(calls.records(job_id, fine_tuning_job, format, part)) as response, Path(path).open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
        return Path(path)

    @many_responses
    def training_records(
        self, job_id: str, fine_tuning_job: str, *, format: RecordFormat = "trl", part: RecordPart = "train"
    ) -> Iterator[dict[str, Any]]:
        """The records of a training file, for TRL (prompt and completion) or OpenAI (messages); streamed, one at a time."""
        with self._client.stream(calls.records(job_id, fine_tuning_job, format, part)) as response:
            for line in lines(response.iter_text()):
                yield json.loads(line)

    def fine_tuning_jobs(self, job_id: str) -> Page[FineTuneJob]:
        """Its trainings, each with its status and its model."""
        return Page(self._client, self._client.send(calls.part(job_id, "fine_tuning_jobs", FineTuneJob)))

    def curves(self, job_id: str) -> Page[Curve]:
        """Losses and learning rates of its trainings, step by step."""
        return Page(self._client, self._client.send(calls.part(job_id, "curves", Curve)))

    def evaluation(self, job_id: str) -> Evaluation:
        """Scores on the held-out examples, by role, and the verdict."""
        return self._client.send(calls.evaluation(job_id))

    def pairs(self, job_id: str, *, change: str | None = None, against: str | None = None, limit: int | None = None) -> Page[Pair]:
        """Held-out examples one by one, from the first row on; `change="regression"` gives those that got worse."""
        return Page(self._client, self._client.send(calls.pairs(job_id, change, against, limit)))

    def cost(self, job_id: str) -> Cost:
        """What the job has cost so far, and what reuse saved."""
        return self._client.send(calls.cost(job_id))


class AsyncCompileJobs(AsyncResource):
    def __init__(self, client: AsyncStillhouse) -> None:
        super().__init__(client)
        self.events = AsyncEvents(client)
        self.scores = AsyncScores(client)
        self.traces = AsyncTraces(client)

    async def create(
        self, *, idempotency_key: str | None = None, if_changed: bool = False, **params: Unpack[JobCreateParams]
    ) -> CompileJob:
        """Start a compile job; see `CompileJobs.create`."""
        return await self._client.send(calls.create(params, idempotency_key, if_changed))

    async def dry_run(self, **params: Unpack[JobCreateParams]) -> DryRun:
        """Have everything checked, and nothing stored; see `CompileJobs.dry_run`."""
        return await self._client.send(calls.dry_run(params))

    async def estimate(self, **params: Unpack[JobCreateParams]) -> Estimate:
        """What a job would ask and cost; see `CompileJobs.estimate`."""
        return await self._client.send(calls.estimate(params))

    async def retrieve(self, job_id: str, *, wait: float | None = None) -> CompileJob:
        """The job; with `wait` (seconds, at most 60) as soon as it changes."""
        return await self._client.send(calls.retrieve(job_id, wait))

    async def list(self, **params: Unpack[JobListParams]) -> AsyncPage[CompileJob]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(calls.list_jobs(params)))

    async def update(self, job_id: str, *, if_match: str | None = None, **params: Unpack[JobUpdateParams]) -> CompileJob:
        """Change a job's name, priority, metadata or budget; see `CompileJobs.update`."""
        return await self._client.send(calls.update(job_id, params, if_match))

    async def start(self, job_id: str) -> CompileJob:
        """Start a job that was created with `auto_start=False`."""
        return await self._client.send(calls.verb(job_id, "start"))

    async def cancel(self, job_id: str) -> CompileJob:
        """Ask the job to stop; it reports `cancelled` when its running work has stopped."""
        return await self._client.send(calls.verb(job_id, "cancel"))

    async def delete(self, job_id: str, *, dry_run: bool = False, cascade: Cascade | None = None) -> Deletion:
        """Erase a job that is over; see `CompileJobs.delete`."""
        return await self._client.send(calls.delete(job_id, dry_run=dry_run, cascade=cascade))

    @many_responses
    async def cancel_all(self, **params: Unpack[CancelManyParams]) -> Sequence[CancelledJob]:
        """Ask all open jobs that meet every filter to stop, and return them."""
        found: builtins.list[CancelledJob] = []
        while True:
            page = await self._client.send(calls.cancel_many(params))
            found += page.data
            if not page.has_more:
                return found

    async def pause(self, job_id: str) -> CompileJob:
        """Ask the job to stand still with all it has; it reports `paused` when its running work has stopped."""
        return await self._client.send(calls.verb(job_id, "pause"))

    async def resume(self, job_id: str) -> CompileJob:
        """Let a paused job go on where it stood."""
        return await self._client.send(calls.verb(job_id, "resume"))

    @many_responses
    async def wait(
        self, job_id: str, *, timeout: float | None = None, progress: bool = False, on_update: OnUpdate | None = None
    ) -> CompileJob:
        """Wait until the job is final, or paused, and return it; see `CompileJobs.wait`."""
        deadline = Deadline(timeout)
        with watcher(progress, on_update) as update:
            job = await self.retrieve(job_id)
            update(job)
            while not job.stands_still:
                job = await apatiently(partial(self._poll, job, deadline))
                update(job)
        return job

    async def _poll(self, job: CompileJob, deadline: Deadline) -> CompileJob:
        return await self.retrieve(job.id, wait=deadline.next_wait(job))

    async def retry(self, job_id: str, *, fine_tuning_job: str | None = None, idempotency_key: str | None = None) -> CompileJob:
        """Let a failed job go on where it failed; see `CompileJobs.retry`."""
        return await self._client.send(calls.retry(job_id, fine_tuning_job, idempotency_key))

    async def refilter(self, job_id: str, *, idempotency_key: str | None = None, **params: Unpack[RefilterParams]) -> CompileJob:
        """Start another job from this one's traces; see `CompileJobs.refilter`."""
        return await self._client.send(calls.refilter(job_id, params, idempotency_key))

    async def logs(self, job_id: str, *, fine_tuning_job: str | None = None, tail: int | None = None) -> AsyncPage[TrainingLog]:
        """What the trainer wrote, one log for each fine-tune job; of each at most the last `tail` lines."""
        wanted = calls.part(job_id, "logs", TrainingLog, fine_tuning_job=fine_tuning_job, tail=tail)
        return AsyncPage(self._client, await self._client.send(wanted))

    async def rejections(
        self,
        job_id: str,
        *,
        reason: str | None = None,
        predictor: str | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> AsyncPage[Rejection]:
        """What was not trained on, and why."""
        wanted = calls.part(job_id, "rejections", Rejection, reason=reason, predictor=predictor, limit=limit, order=order)
        return AsyncPage(self._client, await self._client.send(wanted))

    async def training_files(self, job_id: str) -> AsyncPage[TrainingFile]:
        """The files that its trainings learn from, each with its number of rows."""
        return AsyncPage(self._client, await self._client.send(calls.part(job_id, "training_files", TrainingFile)))

    async def coverage(self, job_id: str) -> Coverage | None:
        """What became of the traces; see `CompileJobs.coverage`."""
        return await self._client.send(calls.coverage(job_id))

    @many_responses
    async def download_training_file(
        self, job_id: str, fine_tuning_job: str, path: str | Path, *, format: RecordFormat = "trl", part: RecordPart = "train"
    ) -> Path:
        """Write a training file to `path`, and return that."""
        async with self._client.stream(calls.records(job_id, fine_tuning_job, format, part)) as response:
            with Path(path).open("wb") as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
        return Path(path)

    @many_responses
    async def training_records(
        self, job_id: str, fine_tuning_job: str, *, format: RecordFormat = "trl", part: RecordPart = "train"
    ) -> AsyncIterator[dict[str, Any]]:
        """The records of a training file; see `CompileJobs.training_records`."""
        async with self._client.stream(calls.records(job_id, fine_tuning_job, format, part)) as response:
            async for line in lines_async(response.aiter_text()):
                yield json.loads(line)

    async def fine_tuning_jobs(self, job_id: str) -> AsyncPage[FineTuneJob]:
        """Its trainings, each with its status and its model."""
        return AsyncPage(self._client, await self._client.send(calls.part(job_id, "fine_tuning_jobs", FineTuneJob)))

    async def curves(self, job_id: str) -> AsyncPage[Curve]:
        """Losses and learning rates of its trainings, step by step."""
        return AsyncPage(self._client, await self._client.send(calls.part(job_id, "curves", Curve)))

    async def evaluation(self, job_id: str) -> Evaluation:
        """Scores on the held-out examples, by role, and the verdict."""
        return await self._client.send(calls.evaluation(job_id))

    async def pairs(
        self, job_id: str, *, change: str | None = None, against: str | None = None, limit: int | None = None
    ) -> AsyncPage[Pair]:
        """Held-out examples one by one; see `CompileJobs.pairs`."""
        return AsyncPage(self._client, await self._client.send(calls.pairs(job_id, change, against, limit)))

    async def cost(self, job_id: str) -> Cost:
        """What the job has cost so far, and what reuse saved."""
        return await self._client.send(calls.cost(job_id))
