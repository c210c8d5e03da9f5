"""What a training has to know of its job, of whichever kind that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.catalog import fine_tuned
from distill.db import Session
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.train_folder import Start
from distill.jobs import fine_tuning, repository
from distill.jobs.claims import OnClosed
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.status import JobKind
from distill.pipeline.keys import Key, model_id
from distill.pipeline.roles import rendering_cast


@dataclass(frozen=True)
class Order:
    """`settings` say how the model is to be asked, and have rows to try it on when it is loaded. With `reuses`, a model of an equal
    training stands for this one. `start` are the LoRA weights that it begins with, where its LM is a fine-tuned model. `system_prompts` is
    how many different ones it will ever be asked with; None where that is not known: what is code may change its prompts, and rows that
    are rendered as a teacher is asked do not show the student's."""

    job_id: str
    project_id: str
    program_name: str
    seed: int
    model_id: str
    settings: Mapping[str, Any]
    reuses: bool
    system_prompts: int | None
    on_closed: OnClosed
    start: Start | None = None


def of(s: Session, key: FineTuneJob) -> Order:
    """Raises NotFound."""
    job = repository.by_id(s, key.job_id)
    return _alone(job, key) if job.kind == JobKind.FINE_TUNE else _of_compile_job(s, key)


def _of_compile_job(s: Session, key: FineTuneJob) -> Order:
    job = contexts.load(s, key.job_id)
    lm = job.spec.lms[key.lms[0]]
    cast = rendering_cast(job.spec, job.student)
    name = model_id(job.program_name, Key(key.lm_key, key.predictor, key.lms[0], tuple(key.predictors)), key.id, job.spec.suffix)
    settings = {
        "prompt_adapter": cast.prompt_adapter.model_dump(mode="json"),
        "options": lm.options(),
        "constrain": lm.constrain,
        "probe_file": key.training_file,
    }
    return Order(
        job_id=key.job_id,
        project_id=job.project_id,
        program_name=job.program_name,
        seed=job.spec.seed,
        model_id=name,
        settings=settings,
        reuses=True,
        system_prompts=_system_prompts(job, key),
        on_closed=flow.after_train,
        start=Start(fine_tuned.get(s, job.project_id, lm.starts_from).files) if lm.starts_from else None,
    )


def _system_prompts(job: contexts.JobContext, key: FineTuneJob) -> int | None:
    if job.student.code is not None or job.spec.render != "student":
        return None
    return len(job.student.predictors) if job.spec.rows == "all" and not key.predictor else len(key.predictors)


def _alone(job: Job, key: FineTuneJob) -> Order:
    """Each such job trains a model of its own, which has its name."""
    spec = fine_tuning.spec_of(job)
    name = fine_tuning.model_id(spec.base_model, spec.suffix, key.id)
    settings = {"probe_file": key.training_file}
    return Order(
        job_id=job.id,
        project_id=job.project_id,
        program_name=job.program_name,
        seed=spec.seed,
        model_id=name,
        settings=settings,
        reuses=False,
        system_prompts=None,
        on_closed=flow.after_fine_tune,
    )
