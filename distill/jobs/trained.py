"""The models of a job's keys: trained by the job itself, or found, since an earlier job trained the same."""

from __future__ import annotations

from sqlalchemy import Select, func, select

from distill.catalog import artifacts, audit, fine_tuned
from distill.catalog.models import Artifact, Model
from distill.db import Session
from distill.errors import Conflict
from distill.jobs.models import FineTuneJob, Job, JobStep
from distill.jobs.status import JobStatus, Step, StepStatus
from distill.jobs.steps import release_held

COMPILED = "compiled"
"""The role, and kind of work item, that waits for the models."""
_OVER = [str(status) for status in JobStatus if status.is_terminal]


def find(s: Session, project_id: str, connection_id: str, training_digest: str) -> Model | None:
    """The project's model of an equal training on this connection, the oldest if there are several; deleted ones do not count."""
    query = select(Model).join(FineTuneJob, FineTuneJob.id == Model.fine_tune_job_id)
    query = query.where(FineTuneJob.project_id == project_id, FineTuneJob.training_digest == training_digest)
    query = query.where(FineTuneJob.model_id.is_not(None), Model.connection_id == connection_id, Model.deleted_at.is_(None))
    return s.scalars(query.order_by(Model.created_at, Model.id).limit(1)).first()


def seconds_a_row(s: Session, project_id: str, trainer: str, base_model: str) -> float | None:
    """How long the project's trainings of a base model took for each of their rows; None where there was none."""
    own = (FineTuneJob.project_id == project_id, FineTuneJob.trainer == trainer, FineTuneJob.base_model == base_model)
    query = select(func.sum(FineTuneJob.trained_seconds), func.sum(FineTuneJob.rows)).where(*own, FineTuneJob.status == "succeeded")
    seconds, rows = s.execute(query.where(FineTuneJob.reused_from.is_(None))).one()
    return float(seconds) / int(rows) if rows else None


def all_there(s: Session, job_id: str) -> bool:
    """True when none of a job's models has been deleted."""
    return all(model.deleted_at is None for model in models_of(s, job_id))


def models_of(s: Session, job_id: str) -> list[Model]:
    """The models that a job's keys have so far."""
    return list(s.scalars(_used_by(job_id)))


def hold_all(s: Session, job_id: str) -> None:
    """None of a job's models is deleted until the transaction ends. Raises Conflict when one has been."""
    held = _used_by(job_id).with_for_update(read=True).execution_options(populate_existing=True)
    if gone := [model.id for model in s.scalars(held) if model.deleted_at is not None]:
        message = f"{gone[0]} was deleted, which job {job_id} has trained: make an equal job, which pays for no rollout again"
        raise Conflict(message, code="model_deleted", param="id")


def _used_by(job_id: str) -> Select[Model]:
    used = select(FineTuneJob.model_id).where(FineTuneJob.job_id == job_id, FineTuneJob.model_id.is_not(None))
    return select(Model).where(Model.id.in_(used)).order_by(Model.id)


def all_ready(s: Session, job_id: str) -> bool:
    """True when every model of a job answers on its connection."""
    models = [model.id for model in models_of(s, job_id)]
    placed = fine_tuned.of_models(s, models)
    return all(model in placed and placed[model].status == "ready" for model in models)


def waiting_for(s: Session, model_id: str) -> list[str]:
    """The jobs, not over yet, that use a model; by id, the order in which their rows are to be locked."""
    query = select(Job.id).join(FineTuneJob, FineTuneJob.job_id == Job.id).where(FineTuneJob.model_id == model_id)
    return list(s.scalars(query.where(Job.status.not_in(_OVER)).distinct().order_by(Job.id)))


def asking(s: Session, project_id: str, model_id: str) -> list[str]:
    """The project's jobs, not over yet, that ask a model as an LM or train from its weights."""
    going = (Job.project_id == project_id, Job.status.not_in(_OVER), Job.spec.contains(f'"model":"{model_id}"', autoescape=True))
    return list(s.scalars(select(Job.id).where(*going).order_by(Job.id)))


def delete(s: Session, project_id: str, model_id: str) -> None:
    """Hide a model and have it unloaded. Raises NotFound, and Conflict while a job or an alias needs it."""
    fine_tuned.lock(s, project_id, model_id)
    if jobs := waiting_for(s, model_id) or asking(s, project_id, model_id):
        raise Conflict(f"job {jobs[0]} uses {model_id} and is not over", code="model_in_use", param="id")
    query = select(Artifact.id).join(FineTuneJob, FineTuneJob.job_id == Artifact.job_id).where(FineTuneJob.model_id == model_id)
    if (name := artifacts.alias_of(s, list(s.scalars(query.where(Artifact.deleted_at.is_(None)))))) is not None:
        raise Conflict(f"{model_id} answers for {name}: move or remove that alias first", code="model_in_use", param="id")
    fine_tuned.delete(s, project_id, model_id)
    audit.record(s, project_id, "model.deleted", model_id)


def load_again(s: Session, job: Job) -> None:
    """Ask again for models that could not be loaded; let the compiled program be evaluated if all of them are there."""
    for model in models_of(s, job.id):
        fine_tuned.want(s, model.id, model.connection_id)
    release_compiled(s, job)


def release_compiled(s: Session, job: Job) -> bool:
    """Let the compiled program be evaluated, if training is over and its models are loaded; False when no evaluation waits for them."""
    query = select(JobStep.name, JobStep.status).where(JobStep.job_id == job.id)
    status: dict[str, str] = {row.name: row.status for row in s.execute(query)}
    if status.get(Step.EVALUATE) in (None, StepStatus.SUCCEEDED):
        return False
    if status.get(Step.TRAIN) == StepStatus.SUCCEEDED and all_ready(s, job.id):
        release_held(s, job, Step.EVALUATE, COMPILED)
    return True
