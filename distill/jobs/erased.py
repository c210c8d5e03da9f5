"""Carries out what was asked of `distill.jobs.erasing`: the dispatcher's collector calls it again and again, after a crash too.

Each piece is a transaction of its own, and the `erasures` row goes with the last one. Nothing that a running job uses is touched.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Select, delete, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog import audit, datasets, programs, projects
from distill.catalog.fields import reader_of
from distill.catalog.models import Artifact, Dataset, Model, Program
from distill.db import Session, unit_of_work
from distill.errors import StillhouseError, StorageError
from distill.jobs import clearing, collecting, copies, erasing_sql, repository
from distill.jobs.erasure_rows import Erasure
from distill.jobs.models import FineTuneJob, Job
from distill.spec import example_digest, inputs_digest
from distill.storage import BlobStore
from stillhouse_programs.spec import ProgramSpec, columns, input_names

log = structlog.get_logger(__name__)
_ROWS_AT_ONCE = 20_000
MOST_LOOKED_AT = 50_000
"""Rows of a dataset whose traces a dry run counts: a request is to end within seconds."""
_BARE_SPEC = '{"program_id":"","trainset":""}'
_PROJECTS_BLOBS = text(collecting.OF_PROJECT)


@dataclass(frozen=True)
class Part:
    """Some rows of a dataset, by the digests of their inputs and of the whole rows."""

    inputs: list[str]
    examples: list[str]


def carry_out(store: BlobStore, stopping: threading.Event) -> int:
    """Erase what was asked for, as far as nothing is in the way, and remove its blobs. Returns how many erasures were ended;
    none while another process is at it. One that fails is logged and tried again at the next call."""
    with unit_of_work() as turn:
        turn.execute(erasing_sql.UNHURRIED)
        if not turn.scalar(erasing_sql.TURN):
            return 0
        with unit_of_work() as s:
            waiting = list(s.scalars(select(Erasure).order_by(Erasure.created_at)))
        done = 0
        for row in waiting:
            if stopping.is_set():
                break
            try:
                done += _one(store, row, stopping)
            except (StillhouseError, SQLAlchemyError, OSError) as error:  # the others are not held up by it
                log.warning("erasure not carried out", object_id=row.object_id, kind=type(error).__name__, error=str(error))
            except Exception:  # nor by a fault of ours
                log.exception("erasure not carried out", object_id=row.object_id)
        try:
            collecting.remove_erased(store, stopping)
        except (StillhouseError, SQLAlchemyError, OSError) as error:  # nor the collector's own round
            log.warning("blobs of erased objects not removed", kind=type(error).__name__, error=str(error))
    return done


def _one(store: BlobStore, row: Erasure, stopping: threading.Event) -> bool:
    if row.kind == "dataset":
        return _dataset(store, row, stopping)
    return _job(store, row, stopping) if row.kind == "job" else _project(row, stopping)


def _count(s: Session, row: Erasure, counts: Mapping[str, int]) -> None:
    """Add to what an erasure has removed, in the transaction that removes it."""
    held = s.get(Erasure, row.object_id, with_for_update=True, populate_existing=True)
    if held is not None:
        held.counts = dict(Counter(held.counts) + Counter(counts))
        s.flush()


def _end(s: Session, row: Erasure) -> None:
    """Remove an erasure, and record in the audit log what it removed: numbers alone."""
    removed = s.scalar(delete(Erasure).where(Erasure.object_id == row.object_id).returning(Erasure.counts))
    if removed is None:
        return
    place = row.project_id if row.kind != "project" else projects.get(s, projects.OPERATORS).id
    action: audit.Action = {"dataset": "dataset.erased", "job": "job.erased", "project": "project.erased"}[row.kind]  # type: ignore[assignment]  # they are three of its words
    audit.record(s, place, action, row.object_id, removed, key_id=row.key_id)


# ------------------------------------------------------------------ a dataset


def _dataset(store: BlobStore, row: Erasure, stopping: threading.Event) -> bool:
    with unit_of_work() as s:
        dataset = datasets.by_id(s, row.object_id)
        jobs = list(s.scalars(select(Job.id).where((Job.trainset_id == dataset.id) | (Job.valset_id == dataset.id))))
        readers = list(_readers(s, dataset))
    if not _copies(store, row, jobs, [dataset.digest], stopping):
        return False
    for job_id in jobs:
        if not _clear_for(row, job_id, stopping, with_artifacts=row.artifacts):
            return False
    for part in _parts(store, dataset, readers):
        if stopping.is_set():
            return False
        with unit_of_work() as s:
            doomed = doomed_traces(s, row.project_id, dataset.id, part.inputs)
            going = set(doomed)
            kept = [digest for digest in _traces_of(s, row.project_id, part.inputs) if digest not in going]
            _count(s, row, {"traces": drop_traces(s, row.project_id, doomed)})
            s.execute(erasing_sql.DROP_SCORES, {"project_id": row.project_id, "traces": kept, "examples": part.examples})
            s.execute(erasing_sql.HELD_OUT, {"inputs": part.inputs, "object_id": dataset.id})
    with unit_of_work() as s:
        _count(s, row, {"datasets": 1, "blobs": clearing.let_go(s, [dataset.digest])})
        bare = {"digest": "", "size_bytes": 0, "offsets": [], "fields": [], "user_metadata": {}}
        s.execute(update(Dataset).where(Dataset.id == dataset.id).values(bare))
        clearing.remove_mentions(s, row.project_id, dataset.id)
        clearing.remove_mentions_of_jobs(s, row.project_id, jobs)
        _end(s, row)
    return True


def _readers(s: Session, dataset: Dataset) -> Iterator[ProgramSpec]:
    """The project's programs, one of each kind of inputs: what traces of its rows are found by."""
    known = set()
    for program_id in s.scalars(select(Program.id).where(Program.project_id == dataset.project_id)).all():
        program = programs.load(s, program_id)
        names = input_names(program)
        typed = {name: column.schema for name, column in columns(program).items() if name in names}
        key = json.dumps([names, typed], sort_keys=True, default=str)
        if names and key not in known:
            known.add(key)
            yield program


def _parts(store: BlobStore, dataset: Dataset, readers: Iterable[ProgramSpec], most: int | None = None) -> Iterator[Part]:
    for program in readers:
        names, read = input_names(program), reader_of(program, dataset)
        part = Part([], [])
        for stored in _stored(store, dataset, most):
            row = read(stored)
            part.inputs.append(inputs_digest({name: row[name] for name in names if name in row}))
            part.examples.append(example_digest(row))
            if len(part.inputs) == _ROWS_AT_ONCE:
                yield part
                part = Part([], [])
        yield part


def _stored(store: BlobStore, dataset: Dataset, most: int | None) -> Iterator[dict[str, Any]]:
    """The rows; none where the blob is lost, so that the rest of the dataset can still be erased."""
    try:
        yield from datasets.rows(store, dataset, stop=most)
    except StorageError as error:
        if error.code != "blob_missing":
            raise
        log.warning("erased without its rows, whose blob is missing", object_id=dataset.id)


def _traces_of(s: Session, project_id: str, inputs: list[str]) -> list[str]:
    return list(s.scalars(erasing_sql.TRACES_OF_INPUTS, {"project_id": project_id, "inputs": inputs}))


def doomed_traces(s: Session, project_id: str, dataset_id: str, inputs: list[str]) -> list[str]:
    """Traces of these inputs, but for those that a job over other datasets used too."""
    return _unused_elsewhere(s, project_id, dataset_id, _traces_of(s, project_id, inputs))


def _unused_elsewhere(s: Session, project_id: str, object_id: str, traces: list[str]) -> list[str]:
    if not traces:
        return []
    used = set(s.scalars(erasing_sql.USED_ELSEWHERE, {"project_id": project_id, "object_id": object_id, "traces": traces}))
    return [digest for digest in traces if digest not in used]


def drop_traces(s: Session, project_id: str, traces: list[str]) -> int:
    """Remove traces with their scores; how many there were."""
    values = {"project_id": project_id, "traces": traces}
    for statement in erasing_sql.DROP_TRACES:
        s.execute(statement, values)
    return int(s.scalar(erasing_sql.DROP_TRACE, values) or 0)


def size_of_datasets_traces(s: Session, store: BlobStore, dataset: Dataset) -> dict[str, int]:
    """What erasing a dataset removes of traces, going by its first rows."""
    s.execute(erasing_sql.LOOKED_AT)
    for part in _parts(store, dataset, list(_readers(s, dataset)), MOST_LOOKED_AT):
        s.execute(erasing_sql.LOOK_AT, {"traces": doomed_traces(s, dataset.project_id, dataset.id, part.inputs)})
    number, size = s.execute(erasing_sql.LOOKED_AT_SIZE, {"project_id": dataset.project_id}).one()
    return {"traces": int(number), "trace_bytes": int(size)}


def size_of_traces(s: Session, project_id: str, traces: Iterable[str]) -> dict[str, int]:
    wanted = sorted(traces)
    size = s.scalar(erasing_sql.TRACES_SIZE, {"project_id": project_id, "traces": wanted})
    return {"traces": len(wanted), "trace_bytes": int(size or 0)}


def _copies(store: BlobStore, row: Erasure, jobs: list[str], digests: list[str], stopping: threading.Event) -> bool:
    copies.read(store, jobs, stopping)
    if stopping.is_set():
        return False
    with unit_of_work() as s:
        found = copies.find(s, row.project_id, jobs, digests).files
    return copies.remove(row.project_id, found, stopping, lambda s, counts: _count(s, row, counts))


# ------------------------------------------------------------------ a job


def _job(store: BlobStore, row: Erasure, stopping: threading.Event) -> bool:
    if not _copies(store, row, [row.object_id], [], stopping):
        return False
    with unit_of_work() as s:
        doomed = traces_of_job(s, repository.by_id(s, row.object_id))
    for start in range(0, len(doomed), erasing_sql.AT_ONCE):
        with unit_of_work() as s:
            _count(s, row, {"traces": drop_traces(s, row.project_id, doomed[start : start + erasing_sql.AT_ONCE])})
    if not _clear_for(row, row.object_id, stopping, with_artifacts=True):
        return False
    with unit_of_work() as s:
        _strip_job(s, repository.lock(s, row.object_id))
        clearing.remove_mentions(s, row.project_id, row.object_id)
        _count(s, row, {"jobs": 1})
        _end(s, row)
    return True


def traces_of_job(s: Session, job: Job) -> list[str]:
    """Traces that a job paid for or took, and no other job of the project used."""
    mine = list(s.scalars(erasing_sql.TRACES_OF_JOB, {"project_id": job.project_id, "job_id": job.id}))
    values = {"project_id": job.project_id, "job_id": job.id, "traces": mine}
    used = set(s.scalars(erasing_sql.USED_BY_OTHERS, values)) if mine else set()
    return [digest for digest in mine if digest not in used]


def _clear_for(row: Erasure, job_id: str, stopping: threading.Event, *, with_artifacts: bool) -> bool:
    def finish(s: Session, found: Counter[str]) -> None:
        s.execute(erasing_sql.PROBES, {"job_id": job_id})
        if with_artifacts:
            found += empty_artifacts(s, job_id)
        if row.kind != "project":  # that one has counted
            _count(s, row, found)

    return clearing.clear_job(job_id, stopping, finish)


def files_of(s: Session, artifacts: Sequence[str], models: Sequence[str]) -> set[str]:
    """The blobs of artifacts and models, by digest."""
    of_artifacts = s.scalars(select(Artifact.files).where(Artifact.id.in_(artifacts)))
    of_models = s.scalars(select(Model.files).where(Model.id.in_(models)))
    return {str(entry["digest"]) for files in (*of_artifacts, *of_models) for entry in files.values()}


def empty_artifacts(s: Session, job_id: str) -> Counter[str]:
    """Remove the content of a job's deleted artifacts and models.

    They stay as ids: moves of aliases name them, and a model's id is never given twice.
    """
    gone = select(Artifact.id).where(Artifact.job_id == job_id, Artifact.deleted_at.is_not(None), Artifact.digest != "")
    ids, models = list(s.scalars(gone)), list(s.scalars(_deleted_models(job_id)))
    blobs = clearing.let_go(s, files_of(s, ids, models))
    bare = {"manifest": "{}", "files": {}, "digest": "", "size_bytes": 0, "user_metadata": {}}
    s.execute(update(Artifact).where(Artifact.id.in_(ids)).values(bare))
    s.execute(erasing_sql.HELD_OUT_OF, {"artifacts": ids})
    s.execute(update(Model).where(Model.id.in_(models)).values(files={}, settings={}))
    return Counter(artifacts=len(ids), models=len(models), blobs=blobs)


def _deleted_models(job_id: str) -> Select[str]:
    """Of those that a job trained or found."""
    used = select(FineTuneJob.model_id).where(FineTuneJob.job_id == job_id, FineTuneJob.model_id.is_not(None))
    return select(Model.id).where(or_(Model.job_id == job_id, Model.id.in_(used)), Model.deleted_at.is_not(None))


def _strip_job(s: Session, job: Job) -> None:
    """What stays of a deleted job: an id, times, status and what it used. An older release lists it still, and reads its spec."""
    job.name, job.program_name, job.spec, job.spec_digest, job.user_metadata = None, "", _BARE_SPEC, "", {}
    job.plan, job.evaluation, job.program_id, job.derived_from = None, None, None, None
    s.execute(erasing_sql.BARE_KEYS, {"job_id": job.id})
    s.flush()


# ------------------------------------------------------------------ a project


def blobs_of_project(s: Session, project_id: str) -> set[str]:
    return set(s.scalars(_PROJECTS_BLOBS, {"project_id": project_id}))


def _project(row: Erasure, stopping: threading.Event) -> bool:
    """Waits, until the next time, for LM hosts that still have its models loaded."""
    with unit_of_work() as s:
        if not row.counts:
            _count(s, row, {noun: int(s.scalar(count, {"project_id": row.project_id}) or 0) for noun, count in erasing_sql.COUNTS.items()})
        jobs = list(s.scalars(select(Job.id).where(Job.project_id == row.project_id)))
    for job_id in jobs:
        if not _clear_for(row, job_id, stopping, with_artifacts=False):
            return False
    for statement in erasing_sql.PROJECT_SOME:
        removed = 1
        while removed and not stopping.is_set():
            with unit_of_work() as s:
                values = {"project_id": row.project_id, "many": erasing_sql.AT_ONCE}
                removed = s.execute(statement, values).rowcount  # type: ignore[attr-defined]
    with unit_of_work() as s:
        if stopping.is_set() or s.scalar(erasing_sql.STILL_LOADED, {"project_id": row.project_id}):
            return False
        _count(s, row, {"blobs": clearing.let_go(s, blobs_of_project(s, row.project_id))})
        for statement in erasing_sql.PROJECT_REST:
            s.execute(statement, {"project_id": row.project_id})
        _end(s, row)
    return True
