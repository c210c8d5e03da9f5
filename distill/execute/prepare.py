"""Prepare: the traces that passed become rows, rendered as the student will be asked. Each slice leaves one part in the blob store."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from distill.catalog import blobs, row_facts, traces
from distill.catalog.facts import RowFact
from distill.catalog.row_facts import NewFact
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.batches import batches
from distill.execute.context import JobContext
from distill.execute.hooks import crash_point
from distill.execute.ports import Ports
from distill.execute.work import Troubled, Work
from distill.pipeline.prepare import passes
from distill.rollouts import Runner, RunnerError
from distill.spec import digest
from distill.storage import BlobWriter

SILENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Passed:
    """A rollout that may become rows."""

    example: int
    n: int
    digest: str
    group: str
    score: float | None
    trace: dict[str, Any]


@dataclass
class Part:
    """The rows of a slice in the making: their text goes to the blob, their facts to the database."""

    job_id: str
    role: str
    out: BlobWriter
    trained: frozenset[str]
    facts: list[NewFact] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=lambda: Counter(kept=0, rejected=0))

    def take(self, passed: Passed, event: dict[str, Any]) -> None:
        """One rendered or rejected call. Calls of predictors that are not the program's own are left out."""
        if event["predictor"] not in self.trained:
            return
        if event["event"] == "row":
            self._keep(passed, event)
        else:
            self._reject(passed, event)

    def _keep(self, passed: Passed, event: dict[str, Any]) -> None:
        row = {"prompt": event["prompt"], "completion": event["completion"], "digest": event["digest"]}
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        data = {"group": passed.group, "offset": self.out.size_bytes, "length": len(line)}
        self.out.write(line)
        self.counts["kept"] += 1
        self.facts.append(self._fact("kept", passed, event, row_digest=event["digest"], data=data))

    def _reject(self, passed: Passed, event: dict[str, Any]) -> None:
        self.counts["rejected"] += 1
        self.facts.append(self._fact("rejected", passed, event, reason=event["reason"], message=event["message"]))

    def _fact(self, kind: row_facts.Kind, passed: Passed, event: dict[str, Any], **more: Any) -> NewFact:
        return NewFact(
            self.job_id,
            kind,
            self.role,
            passed.example,
            passed.n,
            kind,
            call=event["call"],
            predictor=event["predictor"],
            trace_digest=passed.digest,
            score=passed.score,
            **more,
        )

    def finished(self) -> list[NewFact]:
        """The facts, once the blob is complete: each kept row says where its text is."""
        return [_placed(fact, self.out.digest) if fact.kind == "kept" else fact for fact in self.facts]


def _placed(fact: NewFact, part: str) -> NewFact:
    values = {name: getattr(fact, name) for name in NewFact.__dataclass_fields__}
    return NewFact(**{**values, "data": {**(fact.data or {}), "part": part}})


def run(work: Work, ports: Ports) -> None:
    """Render one slice. Raises Troubled, Stopped."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
        passed, scores = _read(s, ports, work, job)
    with ports.store.writer() as out:
        part = Part(job.job_id, work.claim.kind, out, frozenset(predictor.name for predictor in job.student.predictors))
        _render(work, ports, job, passed, part)
    facts = part.finished()
    counts = {**part.counts, "traces": len(scores), "passed": len(passed)}

    def keep(s: Session) -> None:
        blobs.register(s, out.digest, out.size_bytes)
        row_facts.store(s, facts)

    work.publish(counts=counts, result={"part": out.digest}, before=keep, on_closed=flow.after_prepare)


def _read(s: Session, ports: Ports, work: Work, job: JobContext) -> tuple[list[Passed], list[RowFact]]:
    """The rollouts of this slice's examples that passed, with their traces; and all its rollouts."""
    examples = job.examples(ports.store, "train", work.claim.payload["start"], work.claim.payload["stop"])
    groups = {example.index: job.group(example) for example in examples}
    query = select(RowFact).where(RowFact.job_id == job.job_id, RowFact.kind == "rollout", RowFact.role == work.claim.kind)
    query = query.where(RowFact.example_index.in_(groups), RowFact.trace_digest.is_not(None))
    facts = list(s.scalars(query.order_by(RowFact.example_index, RowFact.rollout)))
    good = [fact for fact in facts if _passes(job, fact)]
    bodies = traces.lookup(s, job.project_id, [str(fact.trace_digest) for fact in good])
    found = [
        Passed(
            fact.example_index,
            fact.rollout,
            str(fact.trace_digest),
            groups[fact.example_index],
            fact.score,
            bodies[str(fact.trace_digest)].body,
        )
        for fact in good
    ]
    return found, facts


def _passes(job: JobContext, fact: RowFact) -> bool:
    score = {"status": (fact.data or {}).get("score"), "value": fact.score}
    return passes(fact.status, score, job.spec.filter.min_score, scored=True)


def _render(work: Work, ports: Ports, job: JobContext, passed: list[Passed], part: Part) -> None:
    if not passed:
        return
    body = job.rendering_cast(work.claim.kind).runner_body()
    key = digest(body)
    with ports.runners.runner(job.project_id, job.job_id) as runner, work.telling(lambda _: runner.kill()):
        try:
            runner.ensure_open(key, **body)
            for batch in batches(passed, lambda each: each.trace):
                _render_batch(runner, key, job, batch, part)
                crash_point("prepare.mid_work")
                work.check()
        except RunnerError as error:
            raise Troubled(f"runner_{error.code}", error.message) from error


def _render_batch(runner: Runner, key: str, job: JobContext, batch: list[Passed], part: Part) -> None:
    """Two examples with equal inputs share a trace: it is rendered for each, since each has rows of its own to lose to the filter."""
    sent = [{"trace_digest": str(at), "trace": passed.trace} for at, passed in enumerate(batch)]
    request = {"program_key": key, "demos": job.spec.demos, "traces": sent}
    for event in runner.request("render_rows", silence_seconds=SILENCE_SECONDS, **request):
        if event["event"] in ("row", "rejected"):
            part.take(batch[int(event["trace_digest"])], event)
