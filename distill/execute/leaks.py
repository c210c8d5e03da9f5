"""What a job has seen of held-out rows: its own in the demos of its programs, earlier ones in its trainset."""

from collections.abc import Iterable, Iterator, Sequence

from distill.catalog import held_out
from distill.db import Session
from distill.execute.batches import chunks
from distill.execute.context import JobContext
from distill.pipeline.holdout import Split
from distill.pipeline.leaks import demos_by_inputs, warning_of_demos, warning_of_locked
from distill.pipeline.plan import Source, row_inputs
from distill.storage import BlobStore

LOOKED_UP_AT_ONCE = 1000


def leaks(
    s: Session, store: BlobStore, job: JobContext, inputs: Sequence[str], sides: Split, source: Source | None
) -> list[dict[str, str]]:
    """Warnings, for a reader who would take the scores at their word. `inputs` are the digests of the inputs of the trainset's rows."""
    held = _held(store, job, inputs, sides, source)
    return [*_in_demos(job, held), *warning_of_locked(job.program_name, _in_training(s, job, inputs, sides))]


def _in_demos(job: JobContext, rows: Iterable[tuple[int, str]]) -> list[dict[str, str]]:
    """`rows` are the held-out ones; they are read only where there are demos."""
    programs = {"the student": job.student, **{f"teacher[{i}]": each for i, each in enumerate(job.teachers) if each != job.student}}
    demos = {whose: found for whose, program in programs.items() if (found := demos_by_inputs(program))}
    if not demos:
        return []
    wanted = {digest for found in demos.values() for digest in found}
    held = {digest: row for row, digest in rows if digest in wanted}
    return [warning for whose, found in demos.items() for warning in warning_of_demos(whose, found, held)]


def _held(store: BlobStore, job: JobContext, inputs: Sequence[str], sides: Split, source: Source | None) -> Iterator[tuple[int, str]]:
    """The held-out rows of this job, with the digests of their inputs."""
    if source == "valset" and job.valset is not None:
        yield from ((number, row_inputs(job.student, row)) for number, row in enumerate(job.rows(store, job.valset)))
    else:
        yield from ((number, inputs[number]) for number in sides.holdout)


def _in_training(s: Session, job: JobContext, inputs: Sequence[str], sides: Split) -> dict[int, str]:
    """Rows (0-based) on the training side that an artifact of this program was measured on, with the newest such artifact."""
    artifacts = held_out.by_artifact(s, job.project_id, job.program_name)
    if not artifacts:
        return {}
    seen: dict[int, str] = {}
    for part in chunks(sides.train, LOOKED_UP_AT_ONCE):
        known = held_out.among(s, artifacts, [inputs[number] for number in part])
        seen |= {number: known[inputs[number]] for number in part if inputs[number] in known}
    return seen
