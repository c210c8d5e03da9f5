"""Client rollouts between their wire form and the house's."""

from __future__ import annotations

from app.schemas.client_rollouts import Claimed, ClaimedExample, ClaimedProgram, ScoreIn, TraceIn, WorkItemRead
from distill.clients.facts import Place, Told
from distill.clients.items import Lease
from distill.settings import get_settings

_PLACE = {"role", "row", "rollout"}
_ONLY_WHEN_THERE = ("reasoning", "tool_calls", "discarded")


def claimed(lease: Lease | None) -> Claimed:
    if lease is None:
        return Claimed(item=None)
    held, timers = lease.claim, get_settings().timers
    return Claimed(
        item=WorkItemRead(
            id=f"work-{held.item_id}",
            fence=held.fence,
            job=held.job_id,
            step=str(held.step.public),
            role=held.kind,
            attempt=held.attempt,
            width=held.width,
            lease_seconds=timers.lease_seconds,
            beat_seconds=timers.beat_seconds,
            min_score=lease.min_score,
            stop_on_pass=lease.stop_on_pass,
            metric=lease.metric,
            programs=[ClaimedProgram.model_validate(program) for program in lease.programs],
            examples=[ClaimedExample.model_validate(example) for example in lease.examples],
        )
    )


def told_trace(trace: TraceIn) -> Told:
    """In the form of the runner's traces, whose calls leave out what is not there."""
    body = trace.model_dump(mode="json", exclude=_PLACE)
    for call in body["calls"]:
        for name in _ONLY_WHEN_THERE:
            if not call[name]:
                del call[name]
        if call["logprob"] is None:
            del call["logprob"]
    return Told(_place(trace), body)


def told_score(score: ScoreIn) -> Told:
    return Told(_place(score), score.model_dump(mode="json", exclude=_PLACE))


def _place(told: TraceIn | ScoreIn) -> Place:
    return Place(told.role, told.row - 1, told.rollout)
