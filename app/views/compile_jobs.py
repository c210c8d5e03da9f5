"""A compile job as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.schemas.compile_jobs import (
    ArtifactLink,
    DryRunRead,
    EventRead,
    HolderRead,
    JobCreate,
    JobErrorRead,
    JobRead,
    PauseRead,
    ProgressRead,
    QueueRead,
    StepRead,
    WarningRead,
)
from app.schemas.fine_tuning import ChildFineTuneJob
from app.views.convert import seconds
from app.views.costs import cost_read
from app.views.fine_tuning import fine_tune_error
from distill.catalog import fine_tuned
from distill.jobs.budget import as_asked
from distill.jobs.editing import etag
from distill.jobs.line import Waiting
from distill.jobs.models import FineTuneJob, Job, JobEvent
from distill.jobs.overview import Overview
from distill.jobs.repository import StepView, spec_of
from distill.jobs.status import JobStatus
from distill.jobs.trainer_queue import Active, Holder
from distill.spec import CompileSpec, LmSpec, TeacherSpec

#: Share of a job's time that each step usually takes, in percent.
_WEIGHTS: Mapping[str, int] = {"validate": 2, "bootstrap": 38, "prepare": 5, "train": 35, "evaluate": 17, "package": 3}
_INTERNAL = {"connection_id", "connection_revision", "fine_tuned"}


def job_read(job: Job, parts: Overview, projects: Mapping[str, str]) -> JobRead:
    """The whole object, defaults filled in; `projects` are the names of those that the caller sees, by id."""
    return JobRead(
        id=job.id,
        created_at=seconds(job.created_at),
        created_by=job.created_by,
        owner=parts.owner,
        project=projects[job.project_id],
        name=job.name,
        program_name=job.program_name,
        status=job.status,
        waiting=JobStatus(job.status).is_claimable and job.id not in parts.active.jobs,
        step="prepare" if job.step == "assemble" else job.step,
        round=job.round,
        priority=job.priority,
        derived_from=job.derived_from,
        cancel_requested_at=seconds(job.cancel_requested_at),
        started_at=seconds(job.started_at),
        finished_at=seconds(job.finished_at),
        erased_at=seconds(job.erased_at),
        steps=[_step(step) for step in parts.steps],
        progress=_progress(job, parts.steps, parts.fine_tune_jobs),
        queue=_queue(parts.waiting, projects) if parts.waiting else None,
        pause=_pause(job),
        fine_tuning_jobs=[child(one, parts.active) for one in parts.fine_tune_jobs],
        evaluation=job.evaluation,
        cost=cost_read(parts.costs, parts.fine_tune_jobs),
        warnings=[WarningRead.model_validate(warning) for warning in job.warnings],
        artifact=artifact_link(parts.artifact.id, parts.artifact.name) if parts.artifact else None,
        spec_digest=job.spec_digest,
        error=JobErrorRead.model_validate(job.error) if job.error else None,
        metadata=job.user_metadata,
        etag=etag(job),
        budget=as_asked(job),
        **_asked(spec_of(job)),
    )


def dry_run_read(job: JobRead, body: JobCreate) -> DryRunRead:
    """What would be stored of a request; ids of what is stored with the job would lead nowhere."""
    asked = job.model_dump(mode="json", include={*JobCreate.model_fields, "spec_digest"})
    inline = [name for name in ("program", "trainset", "valset") if not isinstance(getattr(body, name), str)]
    return DryRunRead(job={**asked, **dict.fromkeys(inline)})


def _queue(waiting: Waiting, projects: Mapping[str, str]) -> QueueRead:
    return QueueRead(
        position=waiting.position,
        reason=waiting.reason,
        resource=waiting.resource,
        held_by=[_holder(holder, projects) for holder in waiting.held_by],
        estimated_seconds=waiting.seconds,
    )


def _holder(holder: Holder, projects: Mapping[str, str]) -> HolderRead:
    seen = holder.project_id in projects
    return HolderRead(
        job=holder.job_id if seen else None,
        project=projects.get(holder.project_id),
        name=holder.name if seen else None,
        created_by=holder.created_by if seen else None,
        owner=holder.owner if seen else None,
        since=holder.since,
        seconds_remaining=holder.seconds_remaining,
    )


def _pause(job: Job) -> PauseRead | None:
    if job.pause_requested_at is None or JobStatus(job.status).is_terminal:
        return None
    return PauseRead(requested_at=seconds(job.pause_requested_at), **(job.pause_reason or {"code": "requested", "message": "Paused"}))


def _asked(spec: CompileSpec) -> dict[str, Any]:
    """The request with its defaults."""
    plain = spec.model_dump(mode="json", exclude_none=True)
    plain["rollouts"]["where"] = spec.rollouts.where or "server"
    return {
        "program": spec.program_id,
        "teacher": spec.teacher if spec.teacher == "labels" else [_teacher(teacher) for teacher in spec.teachers],
        "lms": {name: _lm(lm) for name, lm in spec.lms.items()},
        "trainset": spec.trainset,
        "valset": spec.valset,
        "holdout": plain.get("holdout"),
        "metric": plain["metric"],
        "prompt_adapter": plain.get("prompt_adapter"),
        "prompt": spec.prompt or "full",
        "smoke_test": plain.get("smoke_test"),
        "suffix": spec.suffix,
        **{
            name: plain[name]
            for name in (
                "filter",
                "rollouts",
                "multitask",
                "demos",
                "train_options",
                "num_threads",
                "render",
                "rows",
                "evaluate",
                "seed",
            )
        },
        "auto_start": spec.auto_start,
    }


def _lm(lm: LmSpec) -> dict[str, Any]:
    plain = lm.model_dump(mode="json", exclude_none=True, exclude=_INTERNAL)
    return {**plain, "model": fine_tuned.public_id(lm.model)} if lm.starts_from else plain


def _teacher(teacher: TeacherSpec) -> dict[str, Any]:
    return {"program": teacher.program_id or None, "lms": {name: _lm(lm) for name, lm in teacher.lms.items()}}


def _step(step: StepView) -> StepRead:
    return StepRead(
        name=step.name,
        status=step.status,
        started_at=seconds(step.started_at),
        finished_at=seconds(step.finished_at),
        done=step.done,
        total=step.total,
        error=step.error,
        counts=step.counts,
    )


def _progress(job: Job, steps: Sequence[StepView], children: Sequence[FineTuneJob]) -> ProgressRead:
    if job.status == "succeeded":
        return ProgressRead(percent=100, seconds_remaining=0)
    percent = sum(_WEIGHTS.get(step.name, 0) * _share(step, children) for step in steps)
    return ProgressRead(percent=min(99, int(percent)), seconds_remaining=_remaining(job, percent))


def _share(step: StepView, children: Sequence[FineTuneJob]) -> float:
    """How much of a step is done; training counts what its fine-tune jobs report of themselves."""
    if step.name == "train" and children:
        return sum(_trained(child) for child in children) / len(children)
    return step.done / step.total if step.total else 1.0


def _trained(one: FineTuneJob) -> float:
    if one.status == "succeeded":
        return 1.0
    return float((one.progress or {}).get("percent") or 0) / 100


def _remaining(job: Job, percent: float) -> int | None:
    """Straight from the share done so far; too early under 5 %."""
    if job.status != "running" or job.started_at is None or percent < 5:
        return None
    elapsed = (datetime.now(UTC) - job.started_at).total_seconds()
    return max(1, int(elapsed * (100 - percent) / percent))


def child(one: FineTuneJob, active: Active) -> ChildFineTuneJob:
    """A fine-tune job inside its parent."""
    status = active.status_of(one)
    return ChildFineTuneJob(
        id=one.id,
        lm=one.lms[0] if one.lms else "",
        predictor=one.predictor,
        status=status,
        rows=one.rows,
        progress=one.progress if one.status == "running" else None,
        fine_tuned_model=one.model_id,
        reused_from=one.reused_from,
        train_options=(one.result or {}).get("options"),
        error=fine_tune_error(one.error),
    )


def artifact_link(artifact_id: str, name: str) -> ArtifactLink:
    """How to get at an artifact."""
    return ArtifactLink(id=artifact_id, name=name, load=f'stillhouse.load("{artifact_id}")', content=f"/v1/artifacts/{artifact_id}/content")


_WITH_ROWS = frozenset({"sample"})
"""Types of events that quote what was in a row or an answer."""


def event_read(event: JobEvent, whole: bool) -> EventRead:
    """One event; its `id` is the job's own number. Not `whole`: for who sees the job and not the project's data."""
    shown = whole or event.type not in _WITH_ROWS
    return EventRead(
        id=event.seq,
        created_at=seconds(event.created_at),
        level=event.level,
        type=event.type,
        message=event.message if shown else "Shown to keys of the project",
        data=(event.data or {}) if shown else {},
    )
