"""Bootstrap where the labels teach: the rows themselves become traces. No LM is called and no metric is asked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from distill.catalog import row_facts, traces
from distill.catalog.row_facts import NewFact
from distill.catalog.traces import NewTrace
from distill.db import Session, unit_of_work
from distill.execute import flow, rollout_facts, telling
from distill.execute.batches import batches
from distill.execute.context import CastInputs, Example, JobContext, as_inputs
from distill.execute.ports import Ports
from distill.execute.work import Troubled, Work
from distill.rollouts import RunnerError
from distill.spec import label_trace_digest, program_digest
from stillhouse_programs.spec import canonical_json

Json = dict[str, Any]

SILENCE_SECONDS = 120.0
_TEACHER = "labels"


@dataclass(frozen=True)
class _Row:
    """One example, and the digest of the trace that its labels make."""

    example: Example
    io: CastInputs
    digest: str

    def request(self) -> Json:
        return {"index": self.example.index, "inputs": self.io.inputs, "labels": self.io.labels}


def run(work: Work, ports: Ports, job: JobContext, examples: Sequence[Example]) -> None:
    """Make the traces of one slice. Raises Troubled, Stopped."""
    program = program_digest(job.student)
    found = [_Row(each, as_inputs(job.student, each), label_trace_digest(program, each.digest)) for each in examples]
    with unit_of_work() as s:
        stored = {key: trace.body for key, trace in traces.lookup(s, job.project_id, [row.digest for row in found]).items()}
    made = _ask(work, ports, job, [row for row in found if row.digest not in stored])
    with unit_of_work() as s:
        traces.store(s, [_new_trace(job, program, row, made[row.digest]) for row in found if row.digest in made])
    facts = [_fact(work, job, row, {**stored, **made}[row.digest], reused=row.digest in stored) for row in found]

    def keep(s: Session) -> None:
        row_facts.store(s, facts)

    def tell(s: Session) -> None:
        telling.labels_are_over(s, job.job_id, work.claim.kind, facts)

    work.publish(counts=_counts(facts), before=keep, locked=tell, on_closed=flow.after_bootstrap)


def _ask(work: Work, ports: Ports, job: JobContext, rows: Sequence[_Row]) -> dict[str, Json]:
    """`{digest: trace}` of rows that are not stored yet."""
    if not rows:
        return {}
    made: dict[str, Json] = {}
    digests = {row.example.index: row.digest for row in rows}
    body = {"program": _plain(job)}
    runners = ports.runners.runner(job.project_id, job.job_id, job.python, bundles=job.bundles_beside(job.student))
    with runners as runner, work.telling(lambda _: runner.kill()):
        try:
            for batch in batches([row.request() for row in rows], lambda request: request):
                asked: Json = {"silence_seconds": SILENCE_SECONDS, "examples": batch, **body}
                for event in runner.tell_each("label_traces", [each["index"] for each in batch], _index_of, **asked):
                    made[digests[event["index"]]] = job.scrubbed_trace(event["trace"])
                work.progress(done=len(made), total=len(rows), start=rows[0].example.index)
                work.check()
        except RunnerError as error:
            raise Troubled(f"runner_{error.code}", error.message) from error
    return made


def _index_of(event: Json) -> int | None:
    return event["index"] if event["event"] == "trace" and event["n"] == 0 else None


def _plain(job: JobContext) -> Json:
    plain: Json = orjson.loads(canonical_json(job.student))
    return plain


def _new_trace(job: JobContext, program: str, row: _Row, body: Json) -> NewTrace:
    return NewTrace(
        project_id=job.project_id,
        digest=row.digest,
        program_digest=program,
        lms_digest=_TEACHER,
        inputs_digest=row.io.digest,
        prompt_hash="",
        rollout=0,
        body=body,
        source="import",
        dspy_version=job.plan.dspy_version,
        job_id=job.job_id,
    )


def _fact(work: Work, job: JobContext, row: _Row, trace: Json, *, reused: bool) -> NewFact:
    return rollout_facts.rollout_fact(job.job_id, work.claim.kind, row.example.index, 0, row.digest, trace, None, reused=reused)


def _counts(facts: Sequence[NewFact]) -> Counter[str]:
    """The counts of any bootstrap slice; every row that made a trace has passed."""
    names = ("ok", "failed", "unparsable", "undecided", "failed_examples", "calls", "prompt_tokens", "completion_tokens", "teacher_calls")
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    counts.update(fact.status for fact in facts)
    counts.update(passed=counts["ok"], failed_examples=counts["failed"], reused=sum(1 for fact in facts if fact.reused))
    return counts
