"""Assemble: the parts of all slices become one training file a key, or the job stops and says what it lacks."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from sqlalchemy import Row as Fact
from sqlalchemy import func, select, update

from distill.catalog import blobs, row_facts
from distill.catalog.facts import RowFact
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.context import JobContext
from distill.execute.ports import Ports
from distill.execute.work import Work
from distill.jobs import events
from distill.jobs.models import FineTuneJob, Job
from distill.pipeline.plan import job_keys, train_options
from distill.pipeline.prepare import Assembly, Filter, KeyRows, Rejected, Row, assemble, refuse
from distill.pipeline.refusals import Reason, Refused
from distill.storage import FolderStore

_WHY = (RowFact.predictor, RowFact.reason)
_FACTS = (
    RowFact.predictor,
    RowFact.row_digest,
    RowFact.trace_digest,
    RowFact.score,
    RowFact.role,
    RowFact.example_index,
    RowFact.rollout,
    RowFact.call,
    RowFact.data,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's text is: only this is held in memory."""

    part: str
    offset: int
    length: int


@dataclass(frozen=True)
class TrainingFile:
    """The two sides of a key's rows, as blobs; `validation` is None where no rows watch the training."""

    rows: KeyRows
    train: str
    validation: str | None


def run(work: Work, ports: Ports) -> None:
    """Raises Refused when there is nothing to train on."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
        made = _assemble(s, job)
        reason = _refusal(s, job, made)
    if reason is not None:
        raise Refused(reason)
    files = [_write(ports.store, rows) for rows in made.files]
    counts = {"rows": sum(len(file.rows.train) for file in files), "validation_rows": sum(len(file.rows.validation) for file in files)}

    def keep(s: Session) -> None:
        for file in files:
            _point_at(s, ports.store, job, file)

    def closed(s: Session, row: Job, step: Any) -> None:
        events.append(s, row.id, "log", "Training files are ready", {"coverage": made.coverage})
        flow.after_assemble(s, row, step)

    work.publish(counts=counts, result={"coverage": made.coverage}, locked=keep, on_closed=closed)


def _assemble(s: Session, job: JobContext) -> Assembly:
    rows = map(_row, row_facts.stream(s, job.job_id, "kept", *_FACTS))
    rejected = (Rejected(str(fact.predictor), str(fact.reason)) for fact in row_facts.stream(s, job.job_id, "rejected", *_WHY))
    spec = job.spec
    keep = Filter(spec.filter.min_score, spec.filter.top_k, spec.filter.max_rows, spec.filter.dedup)
    keys = job_keys(spec, job.student)
    return assemble(rows, rejected, keys, keep, spec.seed, {key.lm_key for key in keys if train_options(spec, key).early_stopping})


def _row(fact: Fact[Any]) -> Row:
    data = fact.data or {}
    order = (int(fact.role.partition(":")[2]), fact.example_index, fact.rollout, fact.call)
    place = Place(data["part"], data["offset"], data["length"])
    return Row(str(fact.predictor), str(fact.row_digest), str(fact.trace_digest), data["group"], fact.score, order, place)


def _refusal(s: Session, job: JobContext, made: Assembly) -> Reason | None:
    teachers = [RowFact.job_id == job.job_id, RowFact.kind == "rollout", RowFact.role.like("teacher:%"), RowFact.trace_digest.is_not(None)]
    scores = list(s.scalars(select(RowFact.score).where(*teachers)))
    bar = job.spec.filter.min_score
    passed = s.scalar(select(func.count()).where(*teachers, RowFact.status == "ok", RowFact.score >= bar)) or 0
    return refuse(made, traces=len(scores), passed=passed, min_score=bar, scores=scores)


def _write(store: FolderStore, rows: KeyRows) -> TrainingFile:
    return TrainingFile(rows, _write_side(store, rows.train), _write_side(store, rows.validation) if rows.validation else None)


def _write_side(store: FolderStore, rows: Sequence[Row]) -> str:
    """Copy rows out of their parts, in order; a part is opened once."""
    with ExitStack() as stack, store.writer() as out:
        opened: dict[str, BinaryIO] = {}
        for row in rows:
            place: Place = row.ref
            if place.part not in opened:
                opened[place.part] = stack.enter_context(store.open(place.part))
            opened[place.part].seek(place.offset)
            out.write(opened[place.part].read(place.length))
    return out.digest


def _point_at(s: Session, store: FolderStore, job: JobContext, file: TrainingFile) -> None:
    for digest in filter(None, (file.train, file.validation)):
        blobs.register(s, digest, store.size(digest))
    key = file.rows.key
    which = (FineTuneJob.job_id == job.job_id, FineTuneJob.lm_key == key.lm_key, FineTuneJob.predictor == key.predictor)
    values = {
        "rows": len(file.rows.train),
        "validation_rows": len(file.rows.validation),
        "training_file": file.train,
        "validation_file": file.validation,
    }
    s.execute(update(FineTuneJob).where(*which).values(**values))
