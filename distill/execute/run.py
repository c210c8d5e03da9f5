"""From a hint to work: claim, run the step, publish or give back; again until nothing is left or a minute has passed."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.db import Session, is_away, is_outage, repeated, unit_of_work
from distill.errors import CancelRequested, Category, JobFault, LostLease, StillhouseError
from distill.execute.ports import Ports
from distill.execute.work import Stopped, Troubled, Work
from distill.jobs import claims, events, fault_codes, repository
from distill.jobs.claims import Claim, WorkerInfo
from distill.jobs.status import Step
from distill.pipeline.refusals import Refused
from distill.rollouts import RunnerDied
from distill.tracing import current, span

log = structlog.get_logger(__name__)

T = TypeVar("T")
SECONDS = 60
_OUTCOME = "stillhouse.outcome"
StepRunner = Callable[[Work, Ports], None]


class Shift:
    """The items that this process works on now. `stop` ends the shift: nothing new is claimed, and what runs is given back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: set[Work] = set()
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def stop(self) -> None:
        """Called on SIGTERM; may be called more than once, from any thread."""
        self._over.set()
        with self._lock:
            works = list(self._works)
        for work in works:
            work.stop("drain")

    def end_job(self, job_id: str) -> None:
        """A job is over: its other items here stop now, not at their next beat."""
        with self._lock:
            works = [work for work in self._works if work.claim.job_id == job_id]
        for work in works:
            work.stop("cancel")

    def begin(self, work: Work) -> None:
        with self._lock:
            self._works.add(work)
        if self.is_over:
            work.stop("drain")

    def end(self, work: Work) -> None:
        with self._lock:
            self._works.discard(work)


def run_queue(
    queue: str, worker: WorkerInfo, ports: Ports, shift: Shift, steps: Mapping[Step, StepRunner], seconds: float = SECONDS
) -> int:
    """Work on a queue; returns the number of items that were claimed."""
    deadline = time.monotonic() + seconds
    done = 0
    while not shift.is_over and time.monotonic() < deadline:
        claim = _claim(queue, worker)
        if claim is None:
            break
        run_item(claim, ports, shift, steps[claim.step])
        done += 1
    return done


def _claim(queue: str, worker: WorkerInfo) -> Claim | None:
    """None also while the database is away: what is queued is hinted at again."""
    try:
        with unit_of_work() as s:
            return claims.claim(s, queue, worker)
    except SQLAlchemyError as error:
        if not is_outage(error):
            raise
        log.warning("no_claim", queue=queue, error=str(error))
        return None


def run_item(claim: Claim, ports: Ports, shift: Shift, run: StepRunner) -> None:
    """Run one claimed item to its end. No exception leaves it: the item is published, given back, failed, or lost."""
    named = {"job_id": claim.job_id, "project_id": claim.project_id, "item_id": claim.item_id, "step": str(claim.step)}
    with structlog.contextvars.bound_contextvars(**named, attempt=claim.attempt):
        log.info("item_claimed", queue=claim.queue)
        began, work = time.monotonic(), Work(claim)
        shift.begin(work)
        try:
            with span(f"work item {claim.step}", _attributes(claim), kind="consumer", job_id=claim.job_id), work:
                _run(work, ports, run)
        finally:
            shift.end(work)
            _end_job(claim, ports, shift)
            log.info("item_ended", seconds=round(time.monotonic() - began, 3))


def _attributes(claim: Claim) -> dict[str, str | int | None]:
    return {
        "stillhouse.step": str(claim.step),
        "stillhouse.queue": claim.queue,
        "stillhouse.project_id": claim.project_id,
        "stillhouse.item_id": claim.item_id,
        "stillhouse.attempt": claim.attempt,
        "stillhouse.units": claim.units,
        "stillhouse.worker": claim.worker,
        "stillhouse.fine_tuning_job": claim.fine_tune_job_id,
    }


def _end_job(claim: Claim, ports: Ports, shift: Shift) -> None:
    """Leave nothing of a job that is over running on this machine, least of all the warm process with its user's code."""
    if _written(lambda s: claim.job_id in repository.over_among(s, [claim.job_id])):
        shift.end_job(claim.job_id)
        ports.runners.end_job(claim.project_id, claim.job_id)


def _run(work: Work, ports: Ports, run: StepRunner) -> None:
    try:
        run(work, ports)
        current().set({_OUTCOME: "succeeded"})
    except LostLease as lost:
        _let_go(work, give_back=isinstance(lost, CancelRequested))
    except BaseException as error:
        # Celery forgets to count a thread as free that ends in SystemExit or the like, and soon fetches nothing any more.
        # What was stopped may end in any error: its children were killed under it.
        if isinstance(error, Stopped) or work.stop_reason is not None:
            _let_go(work, give_back=work.stop_reason != "lost")
        elif is_away(error):
            log.warning("item_given_back", error=str(error), kind=type(error).__name__)
            _let_go(work, give_back=True)  # the database went away under it: that spends no attempt
        else:
            _fail(work.claim, error)


def _let_go(work: Work, *, give_back: bool) -> None:
    current().set({_OUTCOME: "given_back" if give_back else "lost"})
    if not give_back:
        log.warning("lease_lost")
        return
    _written(lambda s: claims.release(s, work.claim, work.told))


def _fail(claim: Claim, error: BaseException) -> None:
    fault, retryable = judge(error, claim)
    current().set({_OUTCOME: "failed"})
    current().fail(fault_codes.label(fault.code))
    # What programs, metrics and LM hosts said may repeat rows and prompts: the job has it, the log does not.
    text = {} if isinstance(error, Refused | Troubled) else {"error": str(error)}
    log.warning("item_failed", code=fault.code, retryable=retryable, exc_info=fault.code == "internal", **text)

    def write(s: Session) -> None:
        if isinstance(error, Refused):
            _tell(s, claim, error)
        claims.fail(s, claim, fault, retryable)

    _written(write)


def _written(write: Callable[[Session], T]) -> T | None:
    """Run a fenced transaction until it has passed. None when the lease is lost, or the database stays away: then the reaper ends it."""
    try:
        return repeated(write)
    except LostLease:
        return None
    except SQLAlchemyError as error:
        if not is_outage(error):
            raise
        log.warning("left_to_the_reaper", error=str(error), kind=type(error).__name__)
        return None


def _tell(s: Session, claim: Claim, refused: Refused) -> None:
    """The counts behind a refusal, for the job's log; before the job ends, since its event stream ends with it. Raises LostLease."""
    claims.hold(s, claim)
    events.append(s, claim.job_id, "log", refused.reason.message, {"code": refused.reason.code, **refused.reason.data}, "error")


def judge(error: BaseException, claim: Claim) -> tuple[JobFault, bool]:
    """What a failed item's error says, and whether another attempt may go better by itself."""
    if isinstance(error, Refused):
        return error.reason.fault(), False
    if isinstance(error, Troubled):
        return error.fault, error.again
    if isinstance(error, RunnerDied):
        category: Category = "user" if error.is_the_programs else "system"
        return JobFault("runner_died", f"The program's process {error.reason}", category, retryable=True), True
    if isinstance(error, StillhouseError):
        return JobFault(error.code, error.message, "system", error.param, retryable=True), True
    return JobFault("internal", f"{type(error).__name__} in step {claim.step.public}", "system", retryable=True), True
