"""Claim, beat, publish, fail, release, reap: how workers take and give back work items.

Locks are taken in one order everywhere: work item → job, and steps, fine-tune jobs and events change under the job's lock only. Whoever
holds it takes items with SKIP LOCKED.
Every function works inside the caller's transaction, and what it says holds once that has committed. Time is the database's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import Row

from distill.catalog import counters, devices, waits
from distill.catalog.devices import DeviceState
from distill.db import Session
from distill.errors import CancelRequested, JobFault, LostLease
from distill.jobs import caps, events, outbox, repository, training
from distill.jobs import claim_sql as sql
from distill.jobs.lifecycle import settle, transition
from distill.jobs.models import Job
from distill.jobs.slices import cut
from distill.jobs.status import POISON_AFTER, WORKER_QUEUES, JobStatus, Queue, Step, StepStatus
from distill.jobs.steps import point_at_oldest_open
from distill.settings import get_settings

log = structlog.get_logger(__name__)

_TRIES = 8
_GONE = "The client that ran the program went away; the job waits for it, or another, to go on"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Who claims: a name that is unique among live workers, what it can do, and how many rollouts it runs at once.

    A client has work of its own project alone (`project_id`), and of one job if it says so.
    """

    name: str
    capabilities: frozenset[str] = frozenset()
    max_width: int = 1000
    project_id: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A leased work item. The fence is its holder's ticket: with an older one nothing can be published."""

    item_id: int
    job_id: str
    project_id: str
    step: Step
    kind: str
    ordinal: int
    payload: Mapping[str, Any]
    units: int
    width: int
    fence: int
    attempt: int
    worker: str
    queue: str
    fine_tune_job_id: str | None = None
    tries: tuple[str, ...] = ()
    """Connections that wait, and that this item is to try: one call at a time, until one is answered."""


@dataclass(frozen=True, slots=True)
class BeatReply:
    """`lost`: kill the child tree and publish nothing. `cancel` and `pause`: stop, then `release`."""

    lost: bool
    cancel: bool
    pause: bool

    @property
    def stop(self) -> bool:
        return self.lost or self.cancel or self.pause


@dataclass(frozen=True, slots=True)
class StepClosed:
    """What exactly one publisher learns: this step is complete. `counts` are the sums over its items."""

    job_id: str
    name: Step
    total: int
    counts: Mapping[str, Any] = field(default_factory=dict)


OnClosed = Callable[[Session, Job, StepClosed], None]
Also = Callable[[Session], None]


# ------------------------------------------------------------------ claim and beat


def claim(s: Session, queue: str, worker: WorkerInfo) -> Claim | None:
    """Take the next work item of `queue` that this worker may have; None when there is none.

    One statement picks and leases it. Then, under the job's lock, the width is divided anew and a long range is cut: the rest goes
    back as a new item.
    """
    for _ in range(_TRIES):
        with s.begin_nested() as attempt:
            row = _pick(s, queue, worker)
            if row is None:
                return None
            taken = _secure(s, row, worker)
            if taken is not None:
                return taken
            attempt.rollback()  # gives back the locks too: whoever goes on with them might wait for somebody who waits for these
        _settle_stopped(s, row.job_id)
    return None


def _pick(s: Session, queue: str, worker: WorkerInfo) -> Row[Any] | None:
    values = _claim_values(queue, worker)
    if worker.project_id is None:
        return s.execute(sql.CLAIM, values).first()
    return s.execute(sql.CLAIM_OF_PROJECT, {**values, "project_id": worker.project_id, "job_id": worker.job_id}).first()


def _claim_values(queue: str, worker: WorkerInfo) -> dict[str, Any]:
    return {
        "queue": str(queue),
        "capabilities": sorted(worker.capabilities),
        "owner": worker.name,
        "max_width": worker.max_width,
        "max_threads": get_settings().limits.max_threads,
        "lease_seconds": get_settings().timers.lease_seconds,
    }


def _secure(s: Session, row: Row[Any], worker: WorkerInfo) -> Claim | None:
    """Under the job's lock: is the item still to be run, and how wide? None when it is not: the caller then undoes its lease."""
    job = repository.lock(s, row.job_id)
    if _is_stopped(job):
        return None
    room = job.num_threads - int(s.execute(sql.OTHER_WIDTHS, {"job_id": job.id, "id": row.id}).scalar_one())
    if room < 1 or (row.tries and not waits.begin_try(s, row.tries)):
        return None
    payload, units = cut(s, row, short=bool(row.tries))
    room = caps.narrowed(s, room, job.project_id, row.id, capped=row.capped)
    if room < 1:
        return None
    width = 1 if row.tries else max(1, min(row.width, room, units))
    s.execute(sql.SET_WIDTH, {"id": row.id, "width": width})
    s.execute(sql.START_STEP, {"job_id": row.job_id, "step": row.step})
    if row.fine_tune_job_id:
        s.execute(sql.START_FINE_TUNE, {"id": row.fine_tune_job_id})
    if job.status == JobStatus.QUEUED:
        transition(s, job, JobStatus.RUNNING, message="Running")
    caps.served(s, job.project_id)
    return Claim(
        row.id, job.id, job.project_id, Step(row.step), row.kind, row.ordinal, payload, units, width,
        row.fence, row.attempts, worker.name, row.queue, row.fine_tune_job_id, tuple(row.tries),
    )  # fmt: skip


def _settle_stopped(s: Session, job_id: str) -> None:
    """A job that was stopped while one of its items was being claimed: who stopped it passed over that item."""
    job = repository.lock(s, job_id)
    if _is_stopped(job):
        settle(s, job)


def _is_stopped(job: Job) -> bool:
    return not JobStatus(job.status).is_claimable or job.cancel_requested_at is not None or job.pause_requested_at is not None


def beat(s: Session, claim: Claim, progress: Mapping[str, Any] | None = None) -> BeatReply:
    """Renew the lease and learn what is asked of the job. `progress` also goes out as an event, at most one a second a job.

    Its `done`, for a training the newest checkpoint's step, is how far the item is: further than ever before forgives lost leases.
    """
    timers = get_settings().timers
    row = s.execute(sql.BEAT, {**_ticket(claim), "lease_seconds": timers.lease_seconds, **_how_far(claim, progress)}).first()
    if row is None:
        return BeatReply(lost=True, cancel=False, pause=False)
    devices.renew(s, claim.item_id, timers.lease_seconds)
    if progress is not None:
        message = str(progress.get("message") or f"{claim.step.public} goes on")
        data = {**progress, "step": str(claim.step.public), "item": claim.ordinal}
        events.append_progress(s, claim.job_id, f"{claim.step.public}.progress", message, data, timers.progress_event_seconds)
    return BeatReply(lost=False, cancel=row.cancel, pause=row.pause)


def _how_far(claim: Claim, progress: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "progress": None if progress is None else json.dumps(progress),
        "done": 0 if progress is None else int(progress.get("done", 0)),
        "fine_tune_job_id": claim.fine_tune_job_id,
    }


def hold(s: Session, claim: Claim) -> None:
    """Before writing what only the holder of the lease may write: it cannot end before this transaction does. Raises LostLease."""
    if s.execute(sql.HOLD, _ticket(claim)).first() is None:
        raise LostLease(f"work item {claim.item_id} is not held with fence {claim.fence}")


def lease_device(s: Session, claim: Claim, device: str) -> DeviceState | None:
    """Lease a device for as long as the item; None while another item has it. Asking again renews it. Raises LostLease."""
    hold(s, claim)
    return devices.acquire(s, device, claim.item_id, get_settings().timers.lease_seconds)


# ------------------------------------------------------------------ the ends of a lease


def publish(
    s: Session,
    claim: Claim,
    *,
    units: int | None = None,
    counts: Mapping[str, int | float] | None = None,
    result: Mapping[str, Any] | None = None,
    locked: Also | None = None,
    on_closed: OnClosed | None = None,
    later: Sequence[Mapping[str, Any]] = (),
) -> StepClosed | None:
    """End an item with success. Whoever closes its step gets a StepClosed, others None. `later` are payloads of single units that are done
    after a pause, each as an item of its own: the step stays open for them.

    With the job locked `locked` is called, then `on_closed` if this closes the step; a pause that was asked for comes after both.
    `counts` are added to the step's. Raises LostLease when the fence is stale, CancelRequested when the job publishes nothing any
    more: the transaction must then be rolled back, and after CancelRequested the item released.
    """
    if units is not None and units != claim.units:
        raise ValueError(f"work item {claim.item_id} closes {claim.units} units, not {units}")
    _end(s, claim, "succeeded", result=result)
    job = repository.lock(s, claim.job_id)
    if job.cancel_requested_at or JobStatus(job.status).is_terminal:
        raise CancelRequested(f"job {job.id} publishes nothing any more")
    closed = _count(s, _put_off(s, claim, later) if later else claim, counts or {})
    if claim.fine_tune_job_id:
        s.execute(sql.FINISH_FINE_TUNE, {"id": claim.fine_tune_job_id, "status": "succeeded", "error": None})
    if locked is not None:
        locked(s)
    if closed is not None:
        _close_step(s, job, closed, on_closed)
    elif claim.fine_tune_job_id is not None:
        training.fail_if_over(s, job)
    _offer_width(s, job, claim)
    settle(s, job)
    return closed


def _put_off(s: Session, claim: Claim, later: Sequence[Mapping[str, Any]]) -> Claim:
    """The claim without the units that are items of their own from now on."""
    seconds = get_settings().timers.retry_base_seconds
    for payload in later:
        s.execute(sql.PUT_OFF, {"id": claim.item_id, "payload": json.dumps(payload), "seconds": seconds})
    left = claim.units - len(later)
    s.execute(sql.CUT_ITEM, {"id": claim.item_id, "payload": json.dumps(claim.payload), "units": left})
    return replace(claim, units=left)


def _offer_width(s: Session, job: Job, claim: Claim) -> None:
    """The width that a lease leaves may be what the job's items on other queues waited for; on its own queue the worker looks again."""
    for queue in s.scalars(sql.OTHER_QUEUES, {"job_id": job.id, "queue": claim.queue, "queues": [str(queue) for queue in WORKER_QUEUES]}):
        outbox.add(s, queue, job.id)


def _count(s: Session, claim: Claim, counts: Mapping[str, int | float]) -> StepClosed | None:
    values = {"job_id": claim.job_id, "step": str(claim.step), "units": claim.units, "counts": json.dumps(dict(counts))}
    row = s.execute(sql.COUNT_UNITS, values).one()
    if not row.closed:
        return None
    counters.add(s, counters.STEP_SECONDS.observe((str(claim.step),), float(row.seconds)))
    return StepClosed(claim.job_id, claim.step, row.total, row.counts)


def _close_step(s: Session, job: Job, closed: StepClosed, on_closed: OnClosed | None) -> None:
    _tell_closed(s, job, closed)
    if on_closed is not None:
        on_closed(s, job, closed)
    point_at_oldest_open(s, job)


def _tell_closed(s: Session, job: Job, closed: StepClosed) -> None:
    """As readers see the step: prepare is over with its assembly."""
    view = next(view for view in repository.steps(s, job.id) if view.name == closed.name.public)
    if view.status == StepStatus.SUCCEEDED:
        data = {"step": view.name, "status": view.status, "total": view.total, "counts": dict(view.counts)}
        events.append(s, job.id, "step", f"{view.name} succeeded", data)


def fail(s: Session, claim: Claim, error: JobFault, retryable: bool = False) -> bool:
    """End an item with a fault. True: it will be tried again, after a pause. False: it has failed, and its job with it (see `training`
    for fine-tune jobs).

    `retryable` says that another attempt may go better by itself; attempts and their backoff are the item's. Raises LostLease.
    """
    fault = error if error.step else replace(error, step=str(claim.step.public))
    timers = get_settings().timers
    values = {**_ticket(claim), "error": json.dumps(fault.as_json()), "base": timers.retry_base_seconds, "cap": timers.retry_cap_seconds}
    if retryable and s.execute(sql.RETRY_LATER, values).first() is not None:
        devices.release(s, claim.item_id)
        job = repository.lock(s, claim.job_id)
        data = {"code": fault.code, "step": fault.step, "attempt": claim.attempt}
        if claim.fine_tune_job_id:
            data["fine_tuning_job"] = claim.fine_tune_job_id
        events.append(s, job.id, "warning", f"Will try again: {fault.message}", data, "warning")
        _offer_width(s, job, claim)
        settle(s, job)
        return job.status != JobStatus.CANCELLED
    _end(s, claim, "failed", error=fault)
    _fail_for(s, claim.job_id, fault, claim.fine_tune_job_id)
    return False


def _fail_for(s: Session, job_id: str, fault: JobFault, fine_tune_job_id: str | None) -> None:
    """An item has failed for good: with it its job, unless it was a key's and other keys are still open."""
    if fine_tune_job_id:
        training.fail_key(s, job_id, fine_tune_job_id, fault)
    else:
        fail_job(s, job_id, fault)


def fail_job(s: Session, job_id: str, fault: JobFault) -> None:
    """Fail a job that is not terminal yet; a cancelled or already failed one stays what it is."""
    job = repository.lock(s, job_id)
    if JobStatus(job.status).is_claimable and not job.cancel_requested_at:
        transition(s, job, JobStatus.FAILED, message=fault.message, error=fault)
    settle(s, job)


def release(s: Session, claim: Claim, progress: Mapping[str, Any] | None = None) -> None:
    """Give an item back unfinished (drain, pause, cancel, a connection that waits): no attempt is spent. Raises LostLease.

    `progress` is how far it came since the last beat.
    """
    told = None if progress is None else json.dumps(progress)
    row = s.execute(sql.RELEASE, {**_ticket(claim), "progress": told}).first()
    if row is None:
        raise LostLease(f"work item {claim.item_id} is not held with fence {claim.fence}")
    devices.release(s, claim.item_id)
    job = repository.lock(s, claim.job_id)
    settle(s, job)
    if JobStatus(job.status).is_claimable and row.due:
        outbox.add(s, row.queue, job.id)


def reap(s: Session) -> int | None:
    """End one lapsed lease and return its item's id; None when there is none.

    Nothing is reaped until the server has been up for a whole lease: holders could not beat while it was down. A lost lease costs no
    attempt, but the third in a row fails the job unless the item got further than ever before in between: it kills its workers.
    """
    timers = get_settings().timers
    row = s.execute(sql.REAP, {"grace": timers.reap_grace_seconds, "lease_seconds": timers.lease_seconds, "poison": POISON_AFTER}).first()
    if row is None:
        return None
    devices.release(s, row.id)
    counters.add(s, [counters.Increment("leases_lost", (row.queue, row.step))])
    log.warning("lease_reaped", job_id=row.job_id, item_id=row.id, step=row.step, queue=row.queue)
    if row.status == "failed":
        message = f"{POISON_AFTER} workers in a row were lost while they ran this piece of {Step(row.step).public}"
        _fail_for(s, row.job_id, JobFault("poison", message, "system", None, str(Step(row.step).public), True), row.fine_tune_job_id)
        return int(row.id)
    job = repository.lock(s, row.job_id)
    message = _GONE if row.queue == Queue.CLIENT else "A worker was lost; its work will be done again"
    events.append(s, job.id, "warning", message, {"step": str(Step(row.step).public)}, "warning")
    settle(s, job)
    outbox.add(s, row.queue, job.id)
    return int(row.id)


def _end(s: Session, claim: Claim, status: str, *, result: Mapping[str, Any] | None = None, error: JobFault | None = None) -> None:
    documents = {"result": None if result is None else json.dumps(result), "error": None if error is None else json.dumps(error.as_json())}
    if s.execute(sql.END, {**_ticket(claim), "status": status, **documents}).first() is None:
        raise LostLease(f"work item {claim.item_id} is not held with fence {claim.fence}")
    devices.release(s, claim.item_id)


def _ticket(claim: Claim) -> dict[str, Any]:
    return {"id": claim.item_id, "fence": claim.fence}


def sweep(s: Session) -> None:
    """Cancel queued items that a finished job left behind (their rows were locked when it finished)."""
    s.execute(sql.SWEEP)
