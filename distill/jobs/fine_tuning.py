"""Fine-tuning jobs that OpenAI's clients ask for: a job of its own kind, with one fine-tune job of the same id.

They have the steps validate (the files, line by line) and train, and a model as their product. Every function works inside the caller's
transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import structlog
from pydantic import Field
from sqlalchemy import func, select

from distill.catalog import blobs, connections, files, fine_tuned
from distill.catalog.keys import Caller
from distill.catalog.models import Connection, File
from distill.db import Session, on_commit
from distill.errors import Invalid, NotFound
from distill.ids import new_id
from distill.jobs import events, quotas
from distill.jobs.lm_checks import check_base_model, check_train_options, check_trainer
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import JobKind, JobStatus, Step
from distill.jobs.steps import NewItem, open_step
from distill.spec import compact, digest
from distill.spec_part import SpecPart, did_you_mean
from distill.spec_training import TrainOptions
from distill.storage import BlobStore
from distill.tracing import Submitted

log = structlog.get_logger(__name__)

FILES = "files"
"""The kind of the work item that validates."""
CAPABILITY = "job:fine_tune"
"""A worker of a release before these jobs cannot run their items, and is not given any."""


class FineTuneSpec(SpecPart):
    """What such a job is to do. `submit` fills in what follows `metadata`."""

    model: str
    training_file: str
    validation_file: str | None = None
    train_options: TrainOptions = TrainOptions()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    suffix: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    connection_id: str = ""
    base_model: str = ""
    trainer: str = ""


def spec_of(job: Job) -> FineTuneSpec:
    return FineTuneSpec.model_validate_json(job.spec)


def model_id(base_model: str, suffix: str | None, fine_tune_job_id: str) -> str:
    """`ft:<base>:<suffix>::<id>`, unique for ever: the id is the end of the job's."""
    return f"{fine_tuned.OPENAI_PREFIX}{base_model}:{suffix or ''}::{fine_tune_job_id.removeprefix('ftjob-')[-16:]}"


def submit(s: Session, store: BlobStore, project_id: str, caller: Caller | None, spec: FineTuneSpec) -> FineTuneJob:
    """Check a request and store its job, with its `validate` item, event and hint.

    Raises Invalid, NotFound, Unsupported, QuotaExceeded.
    """
    connection, base_model = _base(s, spec.model)
    trainer = connection.trainer or ""
    check_trainer(connection, trainer, "model")
    check_base_model(connection, base_model, "model")
    check_train_options(trainer, spec.train_options, "hyperparameters")
    spec = spec.model_copy(update={"connection_id": connection.id, "base_model": base_model, "trainer": trainer})
    quotas.check_new_job(s, project_id)
    sent = _files(s, project_id, spec)  # now nobody erases one of them before this job is seen
    blobs.register(s, store, *(file.digest for file in sent))
    job = _job(project_id, caller, spec)
    s.add(job)
    s.flush()
    row = _fine_tune_job(job, spec, sent)
    s.add(row)
    s.flush()
    events.append(s, job.id, "status", "The job is queued", {"status": job.status, "step": "validate"})
    open_step(s, job, Step.VALIDATE, [NewItem(FILES, needs=(CAPABILITY,), max_attempts=3)])
    on_commit(s, Submitted(job.id, job.kind).record)
    log.info("job_submitted", job_id=job.id, project_id=project_id, kind=job.kind)
    s.refresh(row)
    return row


def _files(s: Session, project_id: str, spec: FineTuneSpec) -> list[File]:
    """The training file, and the validation file if there is one. Raises Invalid for a file that is not the project's."""
    found = []
    for param, file_id in (("training_file", spec.training_file), ("validation_file", spec.validation_file)):
        if file_id is not None:
            try:
                found.append(files.get(s, project_id, file_id, param))
            except NotFound as error:
                raise Invalid(f"{param}: {error.message}", code=error.code, param=param) from None
    return found


def _base(s: Session, name: str) -> tuple[Connection, str]:
    """Whose model a name is, and its bare name: `connection/model`, or a model that a connection lists on which can be trained.

    A connection may itself be called `openai`, as the prefix of OpenAI's clients is: where nothing can be trained on it, it is not meant.
    """
    bare = name.removeprefix(fine_tuned.ROUTING_PREFIX)
    named = [found for full in dict.fromkeys((name, bare)) if (found := _named(s, full))]
    chosen = [(row, rest) for row, rest in named if _is_trainable(row)][:1] or _listing(s, bare) or named[:1]
    if not chosen:
        raise _unknown([row for row in connections.list_connections(s) if _is_trainable(row)], bare)
    if len(chosen) > 1:
        names = ", ".join(f"{row.name}/{bare}" for row, _ in chosen)
        raise Invalid(f"model: several connections have it; name one of {names}", code="ambiguous_model", param="model")
    return chosen[0]


def _named(s: Session, name: str) -> tuple[Connection, str] | None:
    prefix, _, rest = name.partition("/")
    row = connections.find(s, prefix) if rest else None
    return (row, rest) if row is not None and (row.models is None or rest in row.models) else None


def _listing(s: Session, name: str) -> list[tuple[Connection, str]]:
    """The connections that have a model to be trained; the default student's alone, if it has."""
    rows = [row for row in connections.list_connections(s) if _is_trainable(row) and name in (row.models or ())]
    return [(row, name) for row in [row for row in rows if row.default_student] or rows]


def _is_trainable(row: Connection) -> bool:
    return bool(row.trainer) and "lora" in row.supports


def _unknown(trainable: Sequence[Connection], name: str) -> NotFound:
    known = [model for row in trainable for model in row.models or ()]
    there = ", ".join(known) or "none"
    if name.startswith((fine_tuned.OPENAI_PREFIX, "sh-")):
        text = f"model: {name[:200]} is a fine-tuned model, and training goes on from a base model (there are: {there})"
    else:
        text = f"model: no model {name[:200]} can be trained here (there are: {there}){did_you_mean(name, known)}"
    return NotFound(text, code="model_not_found", param="model")


def _job(project_id: str, caller: Caller | None, spec: FineTuneSpec) -> Job:
    return Job(
        id=new_id("ftjob"),
        kind=str(JobKind.FINE_TUNE),
        project_id=project_id,
        created_by=caller.key_id if caller else None,
        program_name=spec.suffix or spec.base_model,
        status=str(JobStatus.QUEUED),
        spec=compact(spec),
        spec_digest=digest(spec.model_copy(update={"metadata": {}})),
        num_threads=1,
        user_metadata=dict(spec.metadata),
        queued_at=func.clock_timestamp(),
    )


def _fine_tune_job(job: Job, spec: FineTuneSpec, sent: Sequence[File]) -> FineTuneJob:
    """Until the files are validated, it points at them as they were sent: who deletes a file takes nothing from its jobs."""
    return FineTuneJob(
        id=job.id,
        job_id=job.id,
        project_id=job.project_id,
        lm_key=job.spec_digest,
        predictor="",
        lms=[spec.base_model],
        predictors=[],
        connection_id=spec.connection_id,
        base_model=spec.base_model,
        trainer=spec.trainer,
        options=spec.train_options.model_dump(mode="json"),
        training_file=sent[0].digest,
        validation_file=sent[1].digest if len(sent) > 1 else None,
    )


def own_jobs(s: Session, rows: Sequence[FineTuneJob]) -> dict[str, Job]:
    """The jobs of those fine-tune jobs that belong to no compile job, by id."""
    ids = [row.id for row in rows if row.id == row.job_id]
    return {job.id: job for job in s.scalars(select(Job).where(Job.id.in_(ids)).execution_options(populate_existing=True))}
