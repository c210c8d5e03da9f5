"""What a job has seen of held-out rows: its own in the demos of its programs, earlier ones in its trainset."""

from collections.abc import Iterator

from distill.catalog import held_out
from distill.db import Session
from distill.execute.batches import chunks
from distill.execute.context import JobContext
from distill.pipeline.holdout import Split
from distill.pipeline.leaks import demos_by_inputs, numbered, warning_of_demos, warning_of_locked
from distill.pipeline.plan import Source, row_inputs
from distill.storage import FolderStore

LOOKED_UP_AT_ONCE = 1000


def leaks(s: Session, store: FolderStore, job: JobContext, sides: Split, source: Source | None) -> list[dict[str, str]]:
    """Warnings, for a reader who would take the scores at their word."""
    return [*_in_demos(store, job, sides, source), *warning_of_locked(job.program_name, _in_training(s, store, job, sides))]


def _in_demos(store: FolderStore, job: JobContext, sides: Split, source: Source | None) -> list[dict[str, str]]:
    programs = {"the student": job.student, **{f"teacher[{i}]": each for i, each in enumerate(job.teachers) if each != job.student}}
    demos = {whose: found for whose, program in programs.items() if (found := demos_by_inputs(program))}
    if not demos or source is None:
        return []
    wanted = {digest for found in demos.values() for digest in found}
    held = {digest: row for row, digest in _held(store, job, sides, source) if digest in wanted}
    return [warning for whose, found in demos.items() for warning in warning_of_demos(whose, found, held)]


def _held(store: FolderStore, job: JobContext, sides: Split, source: Source) -> Iterator[tuple[int, str]]:
    """The held-out rows of this job, with the digests of their inputs."""
    valset = job.valset if source == "valset" else None
    rows = numbered(job.rows(store, job.trainset), sides.holdout) if valset is None else enumerate(job.rows(store, valset))
    return ((number, row_inputs(job.student, row)) for number, row in rows)


def _in_training(s: Session, store: FolderStore, job: JobContext, sides: Split) -> dict[int, str]:
    """Rows (0-based) on the training side that an artifact of this program was measured on, with the newest such artifact."""
    artifacts = held_out.by_artifact(s, job.project_id, job.program_name)
    if not artifacts:
        return {}
    seen: dict[int, str] = {}
    rows = ((number, row_inputs(job.student, row)) for number, row in numbered(job.rows(store, job.trainset), sides.train))
    for part in chunks(rows, LOOKED_UP_AT_ONCE):
        known = held_out.among(s, artifacts, [digest for _, digest in part])
        seen |= {number: known[digest] for number, digest in part if digest in known}
    return seen
