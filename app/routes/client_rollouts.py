"""/v1/work_items and the traces and scores of a job: rollouts that are made in the caller's own process."""

from __future__ import annotations

from app.auth import Writer
from app.deps import BODY_ERRORS, JobId, SessionDep, errors, router
from app.schemas.client_rollouts import (
    BeatIn,
    BeatRead,
    Claimed,
    ClaimIn,
    FactsStored,
    PublishIn,
    ReleaseIn,
    ScoresIn,
    ScoresStored,
    TracesIn,
    WorkItemEnded,
)
from app.services import ServicesDep
from app.views.client_rollouts import claimed, told_score, told_trace
from distill.clients import facts, items
from distill.clients.items import NotRun
from distill.jobs.claims import WorkerInfo

routes = router("client rollouts")


def _number(item_id: str) -> int:
    return int(item_id.removeprefix("work-"))


@routes.post("/work_items/claim", summary="Claim work of a client's job", responses=BODY_ERRORS)
def claim_work_item(body: ClaimIn, caller: Writer, services: ServicesDep) -> Claimed:
    """A slice of a job of the key's own project whose rollouts are the client's to make. It is held for `lease_seconds`; beat it every
    `beat_seconds`, send its traces and scores, then publish it. A client that goes away loses its lease, and the job waits."""
    worker = WorkerInfo(f"client:{caller.key_id}:{body.client}", frozenset(), body.width, caller.project_id, body.job)
    return claimed(items.claim(services.store, worker))


@routes.post("/work_items/beat", summary="Keep a work item", responses={**BODY_ERRORS, **errors(404, 409)})
def beat_work_item(body: BeatIn, caller: Writer, session: SessionDep) -> BeatRead:
    """409 `lost_lease` when somebody else may hold it: stop, and publish nothing."""
    progress = None if body.done is None else {"done": body.done}
    reply = items.beat(session, caller.project_id, _number(body.id), body.fence, progress)
    return BeatRead(id=body.id, cancel=reply.cancel, pause=reply.pause)


@routes.post("/work_items/release", summary="Give a work item back", responses={**BODY_ERRORS, **errors(404, 409)})
def release_work_item(body: ReleaseIn, caller: Writer, session: SessionDep) -> WorkItemEnded:
    """Unfinished: what was sent of it stays, and whoever claims it next goes on from there. With `error` it is claimable again after a
    pause, and fails its job when its attempts are used up."""
    held = caller.project_id, _number(body.id), body.fence
    items.end_tries(*held, [] if body.error is None else [NotRun(0, body.error.code, body.error.message)])
    if body.error is None:
        items.release(session, *held)
        return WorkItemEnded(id=body.id, status="queued")
    return WorkItemEnded(id=body.id, status=items.give_up(session, *held, body.error.code, body.error.message))


@routes.post("/work_items/publish", summary="Publish a work item", responses={**BODY_ERRORS, **errors(404, 409)})
def publish_work_item(body: PublishIn, caller: Writer, session: SessionDep, services: ServicesDep) -> WorkItemEnded:
    """Every example has its traces and scores by now, or stands in `undecided`; 409 names the rows that lack something. 409 `lost_lease`
    when the fence is an older one. Publishing again changes nothing. While an LM host is away (a `code` such as `unavailable`,
    `model_loading` or `connection_waiting`) the item is `queued` again, and claimable when the host is back."""
    not_run = [NotRun(each.row - 1, each.code, each.message) for each in body.undecided]
    items.end_tries(caller.project_id, _number(body.id), body.fence, not_run)
    return WorkItemEnded(
        id=body.id, status=items.publish(session, services.store, caller.project_id, _number(body.id), body.fence, not_run)
    )


@routes.post("/compile_jobs/{job_id}/traces", summary="Send in traces", responses={**BODY_ERRORS, **errors(404, 409)})
def send_traces(job_id: JobId, body: TracesIn, caller: Writer, session: SessionDep, services: ServicesDep) -> FactsStored:
    """At most 500. They are facts about the program: stored without a lease, also after a cancel, and reused by later jobs. What is there
    already stays. Their inputs are those of the dataset's row."""
    told = [told_trace(trace) for trace in body.traces]
    new = facts.store_traces(session, services.store, caller.project_id, job_id, told, body.source)
    return FactsStored(received=len(told), new=new)


@routes.post("/compile_jobs/{job_id}/scores", summary="Send in scores", responses={**BODY_ERRORS, **errors(404, 409)})
def send_scores(job_id: JobId, body: ScoresIn, caller: Writer, session: SessionDep, services: ServicesDep) -> ScoresStored:
    """At most 500, each of a trace that is stored. A rollout that is not `ok` has its score already. With the `outputs` that were judged no
    score lands on the answer of another client, whose trace was there first."""
    told = [told_score(score) for score in body.scores]
    stored = facts.store_scores(session, services.store, caller.project_id, job_id, told)
    return ScoresStored(received=len(told), new=stored.new, skipped=stored.skipped)
