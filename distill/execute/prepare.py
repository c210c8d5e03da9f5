"""Prepare: the traces that passed become rows, rendered as the student will be asked. Each slice leaves one part in the blob store."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from distill.catalog import blobs, row_facts, traces
from distill.catalog.facts import RowFact
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.batches import batches, chunks
from distill.execute.context import JobContext
from distill.execute.hooks import crash_point
from distill.execute.part import Part, Passed
from distill.execute.ports import Ports
from distill.execute.tokens import Scale
from distill.execute.work import Troubled, Work
from distill.pipeline.labels import choices
from distill.pipeline.plan import measures
from distill.pipeline.prepare import passes
from distill.rollouts import Runner, RunnerError
from distill.spec import digest

SILENCE_SECONDS = 120.0
ROWS_AT_ONCE = 64
"""Rendered rows that are counted together; the runner goes on rendering meanwhile."""
Event = Mapping[str, Any]


def run(work: Work, ports: Ports) -> None:
    """Render one slice. Raises Troubled, Stopped."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
        passed, scores = _read(s, ports, work, job)
    with ports.store.writer() as out:
        part = Part(job.job_id, work.claim.kind, out, choices(job.student))
        _render(work, ports, job, passed, part)
    facts = part.finished()
    counts = {**part.counts, "traces": len(scores), "passed": len(passed)}

    def keep(s: Session) -> None:
        blobs.register(s, ports.store, out.digest)
        row_facts.store(s, facts)

    work.publish(counts=counts, result={"part": out.digest}, before=keep, on_closed=flow.after_prepare)


def _read(s: Session, ports: Ports, work: Work, job: JobContext) -> tuple[list[Passed], list[RowFact]]:
    """The rollouts of this slice's examples that passed, with their traces; and all its rollouts."""
    examples = job.examples(ports.store, "train", work.claim.payload["start"], work.claim.payload["stop"])
    digests = {example.index: job.digests(example.row) for example in examples}
    query = select(RowFact).where(RowFact.job_id == job.job_id, RowFact.kind == "rollout", RowFact.role == work.claim.kind)
    query = query.where(RowFact.example_index.in_(digests), RowFact.trace_digest.is_not(None))
    facts = list(s.scalars(query.order_by(RowFact.example_index, RowFact.rollout)))
    good = [fact for fact in facts if _passes(job, fact)]
    bodies = traces.lookup(s, job.project_id, [str(fact.trace_digest) for fact in good])
    found = [
        Passed(
            fact.example_index,
            fact.rollout,
            str(fact.trace_digest),
            *digests[fact.example_index],
            fact.score,
            bodies[str(fact.trace_digest)].body,
        )
        for fact in good
        if str(fact.trace_digest) in bodies  # it may have been erased since
    ]
    return found, facts


def _passes(job: JobContext, fact: RowFact) -> bool:
    score = {"status": (fact.data or {}).get("score"), "value": fact.score}
    return passes(fact.status, score, job.spec.filter.min_score, scored=job.spec.teacher != "labels")


def _render(work: Work, ports: Ports, job: JobContext, passed: list[Passed], part: Part) -> None:
    if not passed:
        return
    cast = job.rendering_cast(work.claim.kind)
    body = cast.runner_body()
    key = digest(body)
    scale = Scale(ports.trainers, measures(job.spec, job.student))
    runners = ports.runners.runner(job.project_id, job.job_id, job.python, bundles=job.bundles_beside(cast.program))
    with runners as runner, work.telling(lambda _: runner.kill()):
        try:
            runner.ensure_open(key, **body)
            for batch in batches(passed, lambda each: each.trace):
                for some in chunks(_rendered(runner, key, job, batch), ROWS_AT_ONCE):
                    _take(some, scale, part)
                    work.check()
                crash_point("prepare.mid_work")
        except RunnerError as error:
            raise Troubled(f"runner_{error.code}", error.message) from error


def _rendered(runner: Runner, key: str, job: JobContext, batch: list[Passed]) -> Iterator[tuple[Passed, Event]]:
    """Rendered and rejected calls of the student's own predictors.

    Two examples with equal inputs share a trace: it is rendered for each, since each has rows of its own to lose to the filter.
    """
    own = {predictor.name for predictor in job.student.predictors}
    sent = [{"trace_digest": str(at), "trace": passed.trace} for at, passed in enumerate(batch)]
    calls = [(str(at), n, call["predictor"]) for at, passed in enumerate(batch) for n, call in enumerate(passed.trace["calls"])]
    request = {"program_key": key, "demos": job.spec.demos, "traces": sent}
    for event in runner.tell_each("render_rows", calls, _call_of, silence_seconds=SILENCE_SECONDS, **request):
        if event["predictor"] in own:
            yield batch[int(event["trace_digest"])], event


def _call_of(event: Event) -> tuple[str, int, str] | None:
    return (event["trace_digest"], event["call"], event["predictor"]) if event["event"] in ("row", "rejected") else None


def _take(some: Sequence[tuple[Passed, Event]], scale: Scale, part: Part) -> None:
    """Count the rows among some calls, and keep or reject each in the order in which they came."""
    counted = iter(scale.count([event for _, event in some if event["event"] == "row"]))
    for passed, event in some:
        if event["event"] == "row":
            part.keep(passed, event, next(counted))
        else:
            part.reject(passed, event, event["reason"], event["message"])
