"""Deleting datasets, jobs and projects with all that came from them: what is asked, what is in the way, what it will remove.

A request hides the object and writes an `erasures` row in one transaction. `distill.jobs.erased` carries it out, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Select, and_, delete, func, or_, select, update

from distill.catalog import artifacts, audit, datasets, fine_tuned, projects
from distill.catalog.models import Alias, AliasMove, ApiKey, Artifact, Dataset, Model, Project
from distill.catalog.webhook_rows import WebhookEndpoint
from distill.db import Session
from distill.errors import Conflict, Invalid
from distill.jobs import copies, erased, erasing_sql, lifecycle, quotas, repository, trained
from distill.jobs.erasure_rows import Erasure
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import JobStatus
from distill.storage import BlobStore

carry_out = erased.carry_out
_OVER = [str(status) for status in JobStatus if status.is_terminal]
_SHOWN = 5


@dataclass
class Outlook:
    """What a deletion removes, by kind, and what is in its way."""

    id: str
    removes: dict[str, int] = field(default_factory=dict)
    blocked_by: list[Conflict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look_at_dataset(s: Session, store: BlobStore, project_id: str, reference: str, *, with_artifacts: bool) -> Outlook:
    """What deleting a dataset would do. Raises NotFound."""
    row = datasets.resolve(s, project_id, reference, param="id")
    jobs = _jobs_of(s, row.id)
    made, models = _made_by(s, jobs) if with_artifacts else ([], [])
    found = Outlook(row.id, blocked_by=_in_the_way_of_dataset(s, project_id, row.id, jobs, made, models))
    blobs = {row.digest, *_blobs_of(s, jobs, made, models)}
    copied = copies.find(s, project_id, jobs, [row.digest])
    found.removes = {
        "datasets": 1, "jobs": 0, "job_details": len(jobs), "artifacts": len(made), "models": len(models),
        "files": len(copied.files),
        **erased.size_of_datasets_traces(s, store, row), **_size(s, blobs),
    }  # fmt: skip
    if row.row_count > erased.MOST_LOOKED_AT:
        found.notes.append(
            f"traces are counted for the first {erased.MOST_LOOKED_AT:,} of its {row.row_count:,} rows; those of all rows go"
        )
    found.notes += _uncounted(copied)
    if not with_artifacts:
        found.notes += _kept(s, jobs)
    return found


def delete_dataset(s: Session, project_id: str, reference: str, *, with_artifacts: bool) -> str:
    """Hide a dataset and ask for it to be erased. Raises NotFound, Invalid, and Conflict while something needs it."""
    if reference.endswith("@latest"):  # a retry after a lost answer would erase the version before it, too
        raise Invalid(f"{reference} may be another version by now: say its id, or name@v3", code="version_needed", param="id")
    row = datasets.lock(s, project_id, reference)
    jobs = _jobs_of(s, row.id)
    made, models = _held_made_by(s, project_id, jobs) if with_artifacts else ([], [])
    _raise_first(_in_the_way_of_dataset(s, project_id, row.id, jobs, made, models))
    _hide(s, project_id, made, models)
    s.execute(update(Dataset).where(Dataset.id == row.id).values(deleted_at=func.clock_timestamp()))
    _ask(s, "dataset", project_id, row.id, with_artifacts=with_artifacts)
    return row.id


def look_at_job(s: Session, project_id: str, job_id: str, *, with_artifacts: bool) -> Outlook:
    """What deleting a job would do. Raises NotFound."""
    job = repository.get(s, project_id, job_id)
    made, models = _made_by(s, [job_id])
    doomed = set(erased.traces_of_job(s, job))
    found = Outlook(job_id, blocked_by=_in_the_way_of_job(s, job, made, models, with_artifacts=with_artifacts))
    copied = copies.find(s, project_id, [job_id], [])
    found.removes = {
        "jobs": 1, "artifacts": len(made), "models": len(models), "files": len(copied.files),
        **erased.size_of_traces(s, project_id, doomed), **_size(s, _blobs_of(s, [job_id], made, models)),
    }  # fmt: skip
    found.notes += _uncounted(copied)
    return found


def _uncounted(copied: copies.Found) -> list[str]:
    if not copied.unread:
        return []
    noun, them = ("1 training file", "it") if copied.unread == 1 else (f"{copied.unread} training files", "them")
    return [f"copies of {noun} are not counted yet: the collector has yet to read {them}; all copies go"]


def delete_job(s: Session, project_id: str, job_id: str, *, with_artifacts: bool) -> str:
    """Hide a job that is over and ask for it to be erased. Raises NotFound, and Conflict for one that is not over or has an artifact."""
    repository.get(s, project_id, job_id)
    job = repository.lock(s, job_id)
    made, models = _held_made_by(s, project_id, [job_id])
    quotas.hold_jobs(s, project_id)  # after models, as where a job is made
    _raise_first(_in_the_way_of_job(s, job, made, models, with_artifacts=with_artifacts))
    _hide(s, project_id, made, models)
    job.deleted_at = func.clock_timestamp()
    _ask(s, "job", project_id, job_id, with_artifacts=True)
    return job_id


def retire_artifact(s: Session, project_id: str, artifact_id: str, since: datetime) -> dict[str, int]:
    """Delete an artifact, with the models that nothing else has, unless something needs it or an alias has left it since then.

    How many of each kind were deleted.
    """
    job_id = artifacts.get(s, project_id, artifact_id).job_id
    models = _only_of(s, job_id)
    for model_id in models:
        fine_tuned.lock(s, project_id, model_id)
    models = _only_of(s, job_id)
    if _in_the_way_of_artifacts(s, project_id, [artifact_id]) or _in_the_way_of_models(s, project_id, models):
        return {}
    if s.scalar(select(AliasMove.id).where(AliasMove.previous_artifact_id == artifact_id, AliasMove.created_at >= since).limit(1)):
        return {}
    _hide(s, project_id, [artifact_id], models)
    erased.empty_artifacts(s, job_id)
    return {"artifacts": 1, "models": len(models)}


def look_at_project(s: Session, name_or_id: str) -> Outlook:
    """What deleting a project would do. Raises NotFound."""
    row = projects.get(s, name_or_id)
    found = Outlook(row.id, blocked_by=_in_the_way_of_project(s, row))
    found.removes = {noun: int(s.scalar(count, {"project_id": row.id}) or 0) for noun, count in erasing_sql.COUNTS.items()}
    found.removes |= _size(s, erased.blobs_of_project(s, row.id))
    aliases = list(s.scalars(select(Alias).where(Alias.project_id == row.id).order_by(Alias.id).limit(_SHOWN)))
    if aliases:
        names = ", ".join(f"{alias.program_name}@{alias.alias}" for alias in aliases)
        found.notes.append(f"programs may be loaded by these aliases, which go too: {names}")
    return found


def delete_project(s: Session, name_or_id: str) -> str:
    """End a project's keys, free its name and ask for all it has to be erased. Raises NotFound, and Conflict while a job is not over."""
    row = s.get_one(Project, projects.get(s, name_or_id).id, with_for_update={"key_share": True}, populate_existing=True)
    quotas.hold_jobs(s, row.id)
    _raise_first(_in_the_way_of_project(s, row))
    operators = projects.get(s, projects.OPERATORS).id
    audit.record(s, operators, "project.deleted", row.id, {"name": row.name})
    s.execute(update(Project).where(Project.id == row.id).values(deleted_at=func.clock_timestamp(), name=row.id))
    s.execute(update(ApiKey).where(ApiKey.project_id == row.id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.clock_timestamp()))
    s.execute(update(WebhookEndpoint).where(WebhookEndpoint.project_id == row.id).values(disabled_at=func.clock_timestamp()))
    for model_id in s.scalars(select(Model.id).where(Model.project_id == row.id, Model.deleted_at.is_(None))).all():
        fine_tuned.delete(s, row.id, model_id)
    s.execute(delete(Erasure).where(Erasure.project_id == row.id))
    s.add(Erasure(object_id=row.id, kind="project", project_id=row.id, artifacts=True, key_id=audit.who(s)))
    s.flush()
    return row.id


# ------------------------------------------------------------------ what is in the way


def _in_the_way_of_dataset(
    s: Session, project_id: str, dataset_id: str, jobs: Sequence[str], made: Sequence[str], models: Sequence[str]
) -> list[Conflict]:
    busy = list(s.scalars(_open_jobs(project_id).where(Job.id.in_(jobs))))
    found = [] if not busy else [_not_over(f"dataset {dataset_id} is used by", busy, "dataset_in_use")]
    return found + _in_the_way_of_artifacts(s, project_id, made) + _in_the_way_of_models(s, project_id, models)


def _in_the_way_of_job(s: Session, job: Job, made: Sequence[str], models: Sequence[str], *, with_artifacts: bool) -> list[Conflict]:
    if not JobStatus(job.status).is_terminal or lifecycle.has_leased(s, job.id):
        message = f"job {job.id} is {job.status}: cancel it, and delete it when its running work has stopped"
        return [Conflict(message, code="job_not_over", param="id")]
    if (made or models) and not with_artifacts:
        names = ", ".join([*made, *models])
        message = f"job {job.id} made {names}: say cascade=artifacts to delete them with it"
        return [Conflict(message, code="job_has_artifact", param="cascade")]
    found = _in_the_way_of_artifacts(s, job.project_id, made) + _in_the_way_of_models(s, job.project_id, models)
    if busy := list(s.scalars(_sharing_traces(job))):
        found.append(_not_over(f"stored traces of job {job.id} are needed by", busy, "job_in_use"))
    return found


def _in_the_way_of_artifacts(s: Session, project_id: str, made: Sequence[str]) -> list[Conflict]:
    found = []
    if made and (name := artifacts.alias_of(s, made)) is not None:
        message = f"an artifact that would be deleted is {name}: move or remove that alias first"
        found.append(Conflict(message, code="artifact_in_use", param="cascade"))
    named = [func.strpos(Job.spec, artifact) > 0 for artifact in made]
    if named and (job := s.scalar(_open_jobs(project_id).where(or_(*named)).limit(1))) is not None:
        message = f"job {job} compares itself with an artifact that would be deleted: wait until it is over, or cancel it"
        found.append(Conflict(message, code="artifact_in_use", param="cascade"))
    return found


def _in_the_way_of_models(s: Session, project_id: str, models: Sequence[str]) -> list[Conflict]:
    users = {model: trained.waiting_for(s, model) or trained.asking(s, project_id, model) for model in models}
    return [
        Conflict(f"job {jobs[0]} uses {model}, which would be deleted, and is not over", code="model_in_use", param="cascade")
        for model, jobs in users.items()
        if jobs
    ]


def _in_the_way_of_project(s: Session, row: Project) -> list[Conflict]:
    if row.name == projects.OPERATORS:
        return [Conflict(f"`{row.name}` is the project of this server's operators", code="operators_project", param="project")]
    busy = list(s.scalars(_open_jobs(row.id)))
    return [] if not busy else [_not_over(f"project {row.name} has", busy, "project_in_use")]


def _not_over(who: str, jobs: Sequence[str], code: str) -> Conflict:
    names = ", ".join(jobs[:_SHOWN]) + (f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else "")
    return Conflict(f"{who} jobs that are not over: {names}. Cancel them, or wait until they are over.", code=code, param="id")


def _raise_first(found: Sequence[Conflict]) -> None:
    for fault in found:
        raise fault


# ------------------------------------------------------------------ what there is


def _open_jobs(project_id: str) -> Select[str]:
    return select(Job.id).where(Job.project_id == project_id, Job.status.not_in(_OVER)).order_by(Job.id)


def _sharing_traces(job: Job) -> Select[str]:
    """Open jobs that may take the stored traces of a job: made from it, or over one of its datasets."""
    data = [dataset for dataset in (job.trainset_id, job.valset_id) if dataset is not None]
    shares = or_(Job.derived_from == job.id, Job.trainset_id.in_(data), Job.valset_id.in_(data))
    return _open_jobs(job.project_id).where(Job.id != job.id, shares)


def _jobs_of(s: Session, dataset_id: str) -> list[str]:
    query = select(Job.id).where(or_(Job.trainset_id == dataset_id, Job.valset_id == dataset_id), Job.deleted_at.is_(None))
    return list(s.scalars(query.order_by(Job.id)))


def _made_by(s: Session, jobs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Living artifacts of jobs, and living models that only these jobs use."""
    made = s.scalars(select(Artifact.id).where(Artifact.job_id.in_(jobs), Artifact.deleted_at.is_(None)).order_by(Artifact.id))
    elsewhere = select(FineTuneJob.id).join(Job, Job.id == FineTuneJob.job_id)
    elsewhere = elsewhere.where(FineTuneJob.model_id == Model.id, Job.id.not_in(jobs), Job.deleted_at.is_(None))
    used = select(FineTuneJob.model_id).where(FineTuneJob.job_id.in_(jobs), FineTuneJob.model_id.is_not(None))
    models = select(Model.id).where(or_(Model.job_id.in_(jobs), Model.id.in_(used)), Model.deleted_at.is_(None), ~elsewhere.exists())
    return list(made), list(s.scalars(models.order_by(Model.id)))


def _only_of(s: Session, job_id: str) -> list[str]:
    """Living models of a job that no other artifact has, nor a job that may go on or has no artifact to lose."""
    mine = select(FineTuneJob.model_id).where(FineTuneJob.job_id == job_id, FineTuneJob.model_id.is_not(None))
    bare = ~select(Artifact.id).where(Artifact.job_id == Job.id, Artifact.deleted_at.is_(None)).exists()
    done = and_(Job.kind == "compile", Job.status == "succeeded", bare)
    others = select(FineTuneJob.id).join(Job, Job.id == FineTuneJob.job_id).where(FineTuneJob.model_id == Model.id)
    others = others.where(Job.id != job_id, Job.deleted_at.is_(None), ~done)
    models = select(Model.id).where(Model.id.in_(mine), Model.deleted_at.is_(None), ~others.exists())
    return list(s.scalars(models.order_by(Model.id)))


def _kept(s: Session, jobs: Sequence[str]) -> list[str]:
    made, models = _made_by(s, jobs)
    if not made and not models:
        return []
    return [f"{', '.join([*made, *models])} came from these rows and stay: say cascade=artifacts to delete them too"]


def _blobs_of(s: Session, jobs: Sequence[str], made: Sequence[str], models: Sequence[str]) -> set[str]:
    of_jobs = {digest for job_id in jobs for digest in s.scalars(erasing_sql.JOB_BLOBS, {"job_id": job_id})}
    return of_jobs | erased.files_of(s, made, models)


def _size(s: Session, blobs: set[str]) -> dict[str, int]:
    return {"blobs": len(blobs), "bytes": int(s.scalar(erasing_sql.SIZE, {"digests": sorted(blobs)}) or 0)}


# ------------------------------------------------------------------ the request


def _held_made_by(s: Session, project_id: str, jobs: Sequence[str]) -> tuple[list[str], list[str]]:
    """As `_made_by`; until the transaction ends no job takes one of the models up."""
    for model_id in _made_by(s, jobs)[1]:
        fine_tuned.lock(s, project_id, model_id)
    return _made_by(s, jobs)  # some may have been taken up before they were locked


def _hide(s: Session, project_id: str, made: Sequence[str], models: Sequence[str]) -> None:
    for artifact_id in made:
        artifacts.delete(s, project_id, artifact_id)
    for model_id in models:
        fine_tuned.delete(s, project_id, model_id)
        audit.record(s, project_id, "model.deleted", model_id)


def _ask(s: Session, kind: str, project_id: str, object_id: str, *, with_artifacts: bool) -> None:
    audit.record(s, project_id, "dataset.deleted" if kind == "dataset" else "job.deleted", object_id)
    s.add(Erasure(object_id=object_id, kind=kind, project_id=project_id, artifacts=with_artifacts, key_id=audit.who(s)))
    s.flush()
