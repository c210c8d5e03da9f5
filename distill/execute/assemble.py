"""Assemble: the parts of all slices become one training file a key, or the job stops and says what it lacks.

Rows are streamed: only counts, and what a Shelf holds, stay in memory.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row as Fact
from sqlalchemy import func, select, update

from distill.catalog import blobs, row_facts
from distill.catalog.facts import RowFact
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.context import JobContext
from distill.execute.parts import PartTexts
from distill.execute.ports import Ports
from distill.execute.shelf import DiskShelf
from distill.execute.work import Work
from distill.jobs import events
from distill.jobs.models import FineTuneJob, Job
from distill.pipeline.coverage import Seen, Tallies, coverage, refuse
from distill.pipeline.keys import Key
from distill.pipeline.plan import job_keys, predictors_of_rows, train_options
from distill.pipeline.prepare import Filter, Row, Shelf, settle
from distill.pipeline.refusals import Refused
from distill.pipeline.roles import teacher_number
from distill.pipeline.sides import FEWEST_ROWS_TO_VALIDATE, FEWEST_ROWS_TO_WATCH, validation_groups
from distill.storage import BlobStore

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


@dataclass(frozen=True)
class TrainingFile:
    """The two sides of a key's rows, as blobs; `validation` is None where no rows watch the training."""

    tallies: Tallies
    train: str
    train_rows: int
    validation: str | None
    validation_rows: int


def run(work: Work, ports: Ports) -> None:
    """Raises Refused when there is nothing to train on."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
    files = _assemble(work, ports, job)
    with unit_of_work() as s:
        report = coverage(_seen(s, job), (file.tallies for file in files))
        reason = refuse(report, job.spec.filter.min_score, _scores(s, job))
    if reason is not None:
        raise Refused(reason)
    counts = {"rows": sum(file.train_rows for file in files), "validation_rows": sum(file.validation_rows for file in files)}

    def keep(s: Session) -> None:
        for file in files:
            _point_at(s, ports.store, job, file)

    def closed(s: Session, row: Job, step: Any) -> None:
        events.append(s, row.id, "log", "Training files are ready", {"coverage": report})
        flow.after_assemble(s, row, step)

    work.publish(counts=counts, result={"coverage": report}, locked=keep, on_closed=closed)


def _assemble(work: Work, ports: Ports, job: JobContext) -> list[TrainingFile]:
    """One training file a key, also where it would be empty: the report then says why."""
    ports.work_root.mkdir(parents=True, exist_ok=True)
    with PartTexts(ports.store) as texts, tempfile.TemporaryDirectory(prefix="assemble-", dir=ports.work_root) as folder:
        files = []
        for number, key in enumerate(job_keys(job.spec, job.student)):
            place = Path(folder) / str(number)
            place.mkdir()
            files.append(_assemble_key(ports.store, job, key, DiskShelf(place), texts))
            work.check()
        return files


def _assemble_key(store: BlobStore, job: JobContext, key: Key, shelf: Shelf, texts: PartTexts) -> TrainingFile:
    wanted, spec = job.spec.filter, job.spec
    names = predictors_of_rows(spec, job.student, key)
    with unit_of_work() as s:
        # Read at once: the sorting of many rows takes longer than a transaction may stand idle.
        rows = shelf.keep(map(_row, row_facts.stream(s, job.job_id, "kept", *_FACTS, predictors=names)))
    keep = Filter(wanted.min_score, wanted.top_k, wanted.max_rows, wanted.dedup)
    settled = settle(key, rows, keep, spec.seed, shelf)
    fewest = FEWEST_ROWS_TO_WATCH if train_options(spec, key).early_stopping else FEWEST_ROWS_TO_VALIDATE
    held = validation_groups(settled.rows, shelf, fewest)
    return _write(store, settled.rows, held, Tallies(key, names, settled.left_out), texts)


def _row(fact: Fact[Any]) -> Row:
    data = fact.data or {}
    prompt, completion = data["tokens"]
    return Row(
        str(fact.predictor),
        str(fact.row_digest),
        str(fact.trace_digest),
        data.get("inputs", data["group"]),
        data["group"],
        fact.score,
        (teacher_number(fact.role), fact.example_index, fact.rollout, fact.call),
        (prompt, completion),
        data.get("labels", {}),
        (data["part"], data["offset"], data["length"]),
    )


def _write(store: BlobStore, rows: Iterable[Row], held: frozenset[str], tallies: Tallies, texts: PartTexts) -> TrainingFile:
    """Copy rows out of their parts, in order, each to its side."""
    with ExitStack() as stack:
        train = stack.enter_context(store.writer())
        validation = stack.enter_context(store.writer()) if held else None
        for row in rows:
            is_held = row.group in held
            tallies.add(row, held=is_held)
            side = validation if validation is not None and is_held else train
            side.write(texts.read(*row.ref))
    return TrainingFile(tallies, train.digest, tallies.trained, validation.digest if validation else None, tallies.held)


def _seen(s: Session, job: JobContext) -> Seen:
    teachers = _teacher_rollouts(job)
    above = [] if job.spec.teacher == "labels" else [RowFact.score >= job.spec.filter.min_score]
    passing = (RowFact.status == "ok", *above)
    return Seen(
        traces=s.scalar(select(func.count()).where(*teachers)) or 0,
        passed=s.scalar(select(func.count()).where(*teachers, *passing)) or 0,
        called=row_facts.traces_by_predictor(s, job.job_id),
        rejected=row_facts.rejections_by_predictor(s, job.job_id),
    )


def _scores(s: Session, job: JobContext) -> Iterator[float | None]:
    yield from s.scalars(select(RowFact.score).where(*_teacher_rollouts(job)).execution_options(yield_per=2000))


def _teacher_rollouts(job: JobContext) -> list[Any]:
    return [RowFact.job_id == job.job_id, RowFact.kind == "rollout", RowFact.role.like("teacher:%"), RowFact.trace_digest.is_not(None)]


def _point_at(s: Session, store: BlobStore, job: JobContext, file: TrainingFile) -> None:
    blobs.register(s, store, *filter(None, (file.train, file.validation)))
    key = file.tallies.key
    which = (FineTuneJob.job_id == job.job_id, FineTuneJob.lm_key == key.lm_key, FineTuneJob.predictor == key.predictor)
    values = {
        "rows": file.train_rows,
        "validation_rows": file.validation_rows,
        "training_file": file.train,
        "validation_file": file.validation,
    }
    s.execute(update(FineTuneJob).where(*which).values(**values))
