"""Claim, beat, publish and release for clients: the same lease and fence as the workers', and the same end of a slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill.catalog import row_facts, scores, usage, waits
from distill.catalog.usage import NewUsage
from distill.clients.slots import Slots
from distill.db import Session, unit_of_work
from distill.errors import Conflict, Detail, Invalid, JobFault, LostLease, StillhouseError
from distill.execute import context as contexts
from distill.execute import flow, leftovers, telling
from distill.execute.rollout_slice import Item, Phase, Slice
from distill.execute.rollouts import facts_of, verdict
from distill.execute.spending import usage_row
from distill.jobs import claims, client_items, events
from distill.jobs.claims import BeatReply, Claim, WorkerInfo
from distill.jobs.status import ItemStatus, Queue, Step
from distill.pipeline.costs import saved as priced_anew
from distill.pipeline.refusals import Reason, Refused
from distill.storage import BlobStore

Json = dict[str, Any]
_INCOMPLETE = "work_item_incomplete"
_FEW = 2
Ended = Literal["succeeded", "failed", "queued"]


@dataclass(frozen=True)
class Lease:
    """What a client needs to run a slice. `programs` has an entry for each of its phases: the program and LMs of some rollouts."""

    claim: Claim
    min_score: float
    stop_on_pass: bool
    metric: Json
    programs: Sequence[Json]
    examples: Sequence[Json]


@dataclass(frozen=True)
class NotRun:
    """An example (0-based row of its dataset) that could not be run to its end."""

    index: int
    code: str
    message: str


def claim(store: BlobStore, worker: WorkerInfo) -> Lease | None:
    """Take the next item that a client may have; None when there is none, or when it cannot be run now.

    Rows are read once the item is taken: nobody waits meanwhile for the locks of a claim, and what cannot be read has spent an attempt.
    """
    with unit_of_work("api") as s:
        taken = claims.claim(s, Queue.CLIENT, worker)
    if taken is None:
        return None
    try:
        with unit_of_work("api") as s:
            return _lease(s, store, taken)
    except Refused as refused:
        with unit_of_work("api") as s:
            _fail(s, taken, refused.reason)
    except StillhouseError as error:
        fault = JobFault(error.code, error.message, "system", error.param, retryable=True)
        with unit_of_work("api") as s:
            claims.fail(s, taken, fault, retryable=True)
    return None


def _lease(s: Session, store: BlobStore, taken: Claim) -> Lease:
    """Raises Refused, NotFound, StorageError."""
    piece = _slice(s, store, taken)
    piece.forget_failed_scores()
    slots = Slots.of(s, piece)
    client_items.add_connections(s, taken.item_id, flow.connections_of(piece.job, taken.kind))
    spec = piece.job.spec
    metric = spec.metric.model_dump(mode="json")
    examples = [_example(piece, item) for item in piece.items]
    return Lease(taken, spec.filter.min_score, piece.stop_on_pass, metric, [_program(phase, slots) for phase in piece.phases], examples)


def _slice(s: Session, store: BlobStore, taken: Claim) -> Slice:
    """The examples of an item, with what is stored of them. `known` are those that were there before this job.

    What other jobs retry while it is held stays out of it: its client knows nothing of that. Stored rollouts without an answer, which no
    metric is asked about, get the score that they lack under the job's metric.
    """
    job = contexts.load(s, taken.job_id)
    examples = job.examples(store, job.side_of(taken.kind), taken.payload["start"], taken.payload["stop"])
    piece = Slice(job, taken.kind, examples)
    piece.look_up(s, client_items.claimed_at(s, taken.item_id))
    piece.known = piece.paid_by_others
    scores.store(s, piece.score_those_without_answer())
    return piece


def _program(phase: Phase, slots: Slots) -> Json:
    body = phase.cast.runner_body()
    lms = {role: {"model": slots.model_of(phase.cast, lm.pop("slot")), **lm} for role, lm in body["lms"].items()}
    return {"rollouts": list(phase.numbers), "program": body["program"], "prompt_adapter": body["prompt_adapter"], "lms": lms}


def _example(piece: Slice, item: Item) -> Json:
    """Each rollout that may be made, with the trace and score that are there."""
    parts = [piece.request(item, phase) for phase in piece.phases]
    rollouts = sorted((rollout for part in parts for rollout in part["rollouts"]), key=lambda rollout: int(rollout["n"]))
    return {"row": item.example.index + 1, "inputs": item.io.inputs, "labels": item.io.labels, "rollouts": rollouts}


# ------------------------------------------------------------------ while it is held


def beat(s: Session, project_id: str, item_id: int, fence: int, progress: Mapping[str, Any] | None) -> BeatReply:
    """Renew the lease. Raises NotFound, LostLease."""
    held, _ = client_items.find(s, project_id, item_id, fence)
    reply = claims.beat(s, held, progress)
    if reply.lost:
        raise LostLease(f"work item work-{item_id} is not held with fence {fence} any more")
    return reply


def release(s: Session, project_id: str, item_id: int, fence: int) -> None:
    """Give an item back unfinished. Raises NotFound, LostLease."""
    held, _ = client_items.find(s, project_id, item_id, fence)
    claims.release(s, held)


def give_up(s: Session, project_id: str, item_id: int, fence: int, code: str, message: str) -> Literal["queued", "failed"]:
    """Give an item back that its client cannot end: its job fails with this error, at once or with the item's last attempt.

    Only an item that lacked something is tried again: a refusal of what was sent would be paid for, and met, at every attempt.

    Raises NotFound, LostLease.
    """
    held, _ = client_items.find(s, project_id, item_id, fence)
    fault = JobFault(code, f"The client could not end its work: {message}", "system", retryable=True)
    return "queued" if claims.fail(s, held, fault, retryable=code == _INCOMPLETE) else "failed"


# ------------------------------------------------------------------ its end


def publish(s: Session, store: BlobStore, project_id: str, item_id: int, fence: int, not_run: Sequence[NotRun]) -> Ended:
    """End an item with the traces and scores that were sent in. Publishing once more with the same fence changes nothing.

    `failed`: the teacher's first examples stop the job. `queued`: an LM host is away, and the item is claimable again when it is back.
    Raises NotFound, LostLease, and Invalid that names the rows which lack something.
    """
    held, status = client_items.find(s, project_id, item_id, fence)
    if status in (ItemStatus.SUCCEEDED, ItemStatus.FAILED):
        return "succeeded" if status is ItemStatus.SUCCEEDED else "failed"
    piece = _slice(s, store, held)  # before anything is locked; what is stored stays
    claims.hold(s, held)
    _leave_out(piece, not_run)
    if (given_back := _given_back(s, held, piece)) is not None:
        return given_back
    _check_whole(piece)
    spent, saved = _reckoned(s, held, piece)
    piece, later = leftovers.put_off(held, piece)
    rows, counts = facts_of(piece)
    row_facts.store(s, rows)
    if held.payload.get("whole") and piece.is_bootstrap and not piece.stored_only and (reason := verdict(piece)) is not None:
        _fail(s, held, reason)
        return "failed"
    usage.record(s, saved)
    counts.update(spent, teacher_calls=spent["calls"] if piece.role.startswith("teacher") else 0)
    closed = flow.after_bootstrap if held.step is Step.BOOTSTRAP else flow.after_evaluate
    claims.publish(s, held, counts=counts, locked=lambda s: telling.slice_is_over(s, piece), on_closed=closed, later=later)
    return "succeeded"


def end_tries(project_id: str, item_id: int, fence: int, not_run: Sequence[NotRun] = ()) -> None:
    """Before an item is published or given back: a connection that it tried and that has answered waits no more; one that it did not call
    may be tried by the next at once. After trouble of an LM host the next try comes in its time. Raises as `publish`.

    In a transaction of its own: who claims locks a job before its connections.
    """
    with unit_of_work("api") as s:
        client_items.find(s, project_id, item_id, fence)
        tried = waits.tried_by(s, item_id)
        if tried and not any(each.code in leftovers.OF_HOST for each in not_run):
            answered = waits.answered(s, item_id, tried)
            waits.forget(s, answered)
            waits.give_up_try(s, set(tried) - set(answered))


def _given_back(s: Session, held: Claim, piece: Slice) -> Literal["queued", "failed"] | None:
    """An item whose LM host is away waits for it, and costs no attempt; one that met more trouble than a few examples do costs one. None
    for one that is to be published."""
    troubles = {index: why for index, why in piece.undecided.items() if why[0] in leftovers.OF_HOST}
    codes = {code for code, _ in troubles.values()}
    if troubles and (waits.of_item(s, held.item_id) or codes <= leftovers.AWAY):
        claims.release(s, held)
        return "queued"
    if not troubles or leftovers.is_last_try(held) or leftovers.are_few(piece, troubles):
        return None
    if held.attempt > 1 and codes <= leftovers.ONE_BY_ONE and _are_few_of_role(s, held, troubles):
        return None
    if held.step is Step.EVALUATE and len(troubles) <= 2 and codes <= leftovers.ONE_BY_ONE:
        return None  # they are put off, and asked one by one
    code, message = next(iter(troubles.values()))
    fault = JobFault(code, f"{len(troubles)} examples could not be run: {message}", "system", retryable=True)
    return "queued" if claims.fail(s, held, fault, retryable=True) else "failed"


def _are_few_of_role(s: Session, held: Claim, troubles: Mapping[int, tuple[str, str]]) -> bool:
    """Whether one or two examples of a short range met trouble twice, of a role whose other ranges have answered."""
    return len(troubles) <= _FEW < row_facts.decided(s, held.job_id, held.kind)


def _leave_out(piece: Slice, not_run: Sequence[NotRun]) -> None:
    known = {item.example.index for item in piece.items}
    strange = [each.index for each in not_run if each.index not in known]
    if strange:
        details = tuple(Detail("is not in this work item", row=index + 1) for index in strange)
        raise Invalid("undecided: rows that are not in this work item", code="invalid_rows", param="undecided", details=details)
    piece.undecided.update({each.index: (each.code, piece.job.scrubbed(each.message)) for each in not_run})


def _check_whole(piece: Slice) -> None:
    lacking = [item for item in piece.items if piece.outcome(item) is None]
    if lacking:
        details = tuple(Detail(_what_lacks(piece, item), row=item.example.index + 1) for item in lacking)
        message = (
            f"{len(lacking)} of {len(piece.items)} examples lack a trace or a score; send them, or name those that cannot be run in "
            "`undecided`"
        )
        raise Conflict(message, code=_INCOMPLETE, details=details)


def _what_lacks(piece: Slice, item: Item) -> str:
    for n in range(len(item.digests)):
        stored = piece.stored(item, n)
        if stored.trace is None:
            return f"rollout {n} has no trace"
        if stored.score is None:
            return f"rollout {n} has no score"
    return "has not passed, and more rollouts are asked for"


def _reckoned(s: Session, held: Claim, piece: Slice) -> tuple[dict[str, int], list[NewUsage]]:
    """What this job's own traces took, which is written down when they come; and what those of others saved."""
    slots = Slots.of(s, piece)
    own = {item.digests[each.n]: each.trace for item, each in piece.used() if item.digests[each.n] not in piece.known}
    paid = priced_anew([trace for trace in own.values() if trace is not None], slots.asked)
    saved = piece.saved({each.name: each for each in slots.asked})
    spent = {name: sum(getattr(each, name) for each in paid.values()) for name in ("calls", "prompt_tokens", "completion_tokens")}
    return spent, [usage_row(held, "saved", piece.role, model, each) for model, each in saved.items()]


def _fail(s: Session, held: Claim, reason: Reason) -> None:
    events.append(s, held.job_id, "log", reason.message, {"code": reason.code, **reason.data}, "error")
    claims.fail(s, held, reason.fault())
