"""What opens when a step closes. Every function runs in the transaction that closed it, with the job's row locked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from distill.catalog import fine_tuned
from distill.db import Session
from distill.execute import context as contexts
from distill.execute import rollout_facts, telling
from distill.execute.context import JobContext
from distill.jobs import claims, events, fine_tuning, service, trained
from distill.jobs.claims import StepClosed
from distill.jobs.models import FineTuneJob, Job, JobStep
from distill.jobs.repository import fine_tune_jobs
from distill.jobs.service import NewFineTuneJob
from distill.jobs.status import Queue, Step, StepStatus
from distill.jobs.steps import NewItem, open_step
from distill.jobs.trained import COMPILED
from distill.jobs.training import key_name
from distill.pipeline import bootstrap, demos
from distill.pipeline.plan import Plan, job_keys, lm_of_key, lms_of_key, roles_to_evaluate, train_options
from distill.pipeline.refusals import Reason, failed_examples
from distill.pipeline.roles import teacher_roles
from distill.spec import LmSpec

TRIAL_OF_DEMOS = "demos"


def after_validate(s: Session, row: Job, plan: Plan, told: list[dict[str, str]]) -> None:
    """Keep the plan; open bootstrap, and with it the roles that are evaluated; the compiled one waits until it exists."""
    row.plan = plan.model_dump(mode="json")
    s.flush()
    job = contexts.load(s, row.id)
    keys = service.create_fine_tune_jobs(s, row, _new_fine_tune_jobs(job))
    _want_tuned(s, job, keys)
    for warning in told:
        service.warn(s, row, warning["code"], warning["message"])
    roles = teacher_roles(job.spec)
    open_step(s, row, Step.BOOTSTRAP, [*(item for role in roles for item in _teacher_items(job, role)), *_trial_of_demos(job)])
    roles = roles_to_evaluate(job.spec, plan.holdout_from)
    if roles:
        _want_incumbent(s, job)
        open_step(s, row, Step.EVALUATE, [_range_item(job, role, plan.holdout_examples) for role in roles])


def _want_tuned(s: Session, job: JobContext, keys: Sequence[FineTuneJob]) -> None:
    """Have the fine-tuned models that the job asks loaded, and tell which trainings start from one."""
    for lms in (job.spec.lms, *(teacher.lms for teacher in job.spec.teachers)):
        for lm in lms.values():
            if lm.starts_from:
                fine_tuned.want(s, lm.starts_from, lm.connection_id)
    for key in keys:
        if start := job.spec.lms[key.lms[0]].starts_from:
            text = f"The training of {key_name(key)} starts from the LoRA weights of {start}"
            events.append(s, job.job_id, "log", text, {"fine_tuning_job": key.id, "model": start})


def _want_incumbent(s: Session, job: JobContext) -> None:
    """What production loads is loaded already, as a rule; else it is loaded for this evaluation."""
    for lm in job.incumbent.slots.values() if job.incumbent else ():
        fine_tuned.want(s, lm.model, lm.connection_id)


def _new_fine_tune_jobs(job: JobContext) -> list[NewFineTuneJob]:
    made = []
    for key in job_keys(job.spec, job.student):
        lm = lm_of_key(job.spec, key)
        options = train_options(job.spec, key).model_dump(mode="json")
        names = tuple(lms_of_key(job.spec, key))
        made.append(NewFineTuneJob(key.lm_key, key.predictor, names, key.predictors, lm.connection_id, lm.base_model, lm.trainer, options))
    return made


def _teacher_items(job: JobContext, role: str) -> list[NewItem]:
    """The first examples are one work item, since on them it is decided whether the others are worth their calls. Labels cost none."""
    every = _range_item(job, role, job.plan.train_examples)
    first = bootstrap.first_examples(job.spec.smoke_test)
    if every.units <= first or job.taught_by_labels(role):
        return [every]
    head = replace(every, payload={"start": 0, "stop": first, "whole": True}, units=first)
    return [head, replace(every, payload={"start": first, "stop": every.units}, units=every.units - first)]


def _range_item(job: JobContext, role: str, examples: int) -> NewItem:
    connections = connections_of(job, role)
    payload = {"start": 0, "stop": examples}
    at_client = job.spec.rollouts.by_client and not job.taught_by_labels(role)
    if at_client:
        return NewItem(role, payload, examples, queue=Queue.CLIENT, connections=connections, held=role == COMPILED)
    return NewItem(role, payload, examples, needs=service.runs_programs(job.python), connections=connections, held=role == COMPILED)


def _trial_of_demos(job: JobContext) -> list[NewItem]:
    """One item, that what it finds out is decided in one place; beside the teacher, whom it does not need."""
    if not demos.is_tried(job.spec, job.student):
        return []
    connections = sorted({lm.connection_id for lm in job.spec.lms.values()})
    examples = min(demos.EXAMPLES, job.plan.train_examples)
    return [NewItem(TRIAL_OF_DEMOS, units=examples, needs=service.runs_programs(job.python), connections=connections)]


def connections_of(job: JobContext, role: str) -> list[str]:
    """What an item of a role waits for while it cannot be called."""
    return sorted({lm.connection_id for lm in _asked(job, role).values()})


def _asked(job: JobContext, role: str) -> Mapping[str, LmSpec]:
    """The LMs whose connections an item of a role needs."""
    if role == COMPILED:
        return job.spec.lms
    return {} if job.taught_by_labels(role) else job.cast(role).slots


def after_bootstrap(s: Session, row: Job, closed: StepClosed) -> None:
    """Stop when no rollout gave an answer, else render rows."""
    job = contexts.load(s, row.id)
    telling.cost_so_far(s, row.id)
    _warn_of_failed(s, row, rollout_facts.failed_examples(s, row.id), job.plan.train_examples * len(teacher_roles(job.spec)))
    reason = bootstrap.verdict(closed.counts, rollout_facts.commonest_errors(s, row.id))
    if reason is not None:
        stop(s, row, reason)
        return
    size, needs = job.plan.train_examples, service.runs_programs(job.python)
    items = [NewItem(role, {"start": 0, "stop": size}, size, needs=needs) for role in teacher_roles(job.spec)]
    open_step(s, row, Step.PREPARE, items)


def after_prepare(s: Session, row: Job, closed: StepClosed) -> None:
    open_step(s, row, Step.ASSEMBLE, [NewItem("assemble")])


def after_assemble(s: Session, row: Job, closed: StepClosed) -> None:
    """One item a key."""
    _open_train(s, row)


def after_files(s: Session, row: Job, closed: StepClosed) -> None:
    """The files of a fine-tuning job are rows now."""
    _open_train(s, row, fine_tuning.CAPABILITY)


def _open_train(s: Session, row: Job, *needs: str) -> None:
    keys = fine_tune_jobs(s, row.id)
    items = [NewItem("train", fine_tune_job_id=key.id, needs=(f"trainer:{key.trainer}", *needs), max_attempts=3) for key in keys]
    open_step(s, row, Step.TRAIN, items)


def after_train(s: Session, row: Job, closed: StepClosed) -> None:
    """The compiled program exists. It is measured once its models are loaded; without a holdout it is packaged at once."""
    if not trained.release_compiled(s, row):
        package_when_done(s, row)


def after_evaluate(s: Session, row: Job, closed: StepClosed) -> None:
    """Tell the scores; package when training is over too."""
    job = contexts.load(s, row.id)
    row.evaluation = rollout_facts.evaluation_of(s, job)
    s.flush()
    _warn_of_uncounted(s, row, rollout_facts.undecided_examples(s, row.id), closed.total)
    if row.evaluation is not None:
        events.append(s, row.id, "eval.result", _evaluation_line(row.evaluation), row.evaluation)
    telling.cost_so_far(s, row.id)
    package_when_done(s, row)


def _evaluation_line(evaluation: dict[str, Any]) -> str:
    scores = [
        f"{name} {part['score']:.3f}" for name, part in evaluation.items() if isinstance(part, dict) and part.get("score") is not None
    ]
    delta = evaluation.get("delta")
    return ", ".join(scores) + (f"; compared with {delta['against']}: {delta['verdict']}" if delta else "")


def package_when_done(s: Session, row: Job) -> None:
    """Open package once training and evaluation are both over."""
    ready = _status(s, row, Step.TRAIN) == StepStatus.SUCCEEDED
    if ready and _status(s, row, Step.EVALUATE) in (None, StepStatus.SUCCEEDED) and _status(s, row, Step.PACKAGE) is None:
        open_step(s, row, Step.PACKAGE, [NewItem("package")])


def after_package(s: Session, row: Job, closed: StepClosed) -> None:
    service.succeed(s, row)


def after_fine_tune(s: Session, row: Job, closed: StepClosed) -> None:
    """A fine-tuning job's product is its model."""
    service.succeed(s, row)


def _warn_of_failed(s: Session, row: Job, why: Mapping[str, int], total: int) -> None:
    """Examples of the trainset from which nothing can be learned."""
    if why:
        service.warn(s, row, "examples_failed", failed_examples(why, total), f"/v1/compile_jobs/{row.id}/rejections")


def _warn_of_uncounted(s: Session, row: Job, why: Mapping[str, int], total: int) -> None:
    """Held-out examples that are in nobody's score; the rejections are the teacher's alone, so this points at the rollouts."""
    if why:
        text = f"Evaluation: {failed_examples(why, total)}. The scores leave them out."
        service.warn(s, row, "examples_failed", text, f"/v1/compile_jobs/{row.id}/traces")


def stop(s: Session, row: Job, reason: Reason) -> None:
    """Fail the job with a reason its user can act on; the counts behind it go into the log."""
    events.append(s, row.id, "log", reason.message, {"code": reason.code, **reason.data}, "error")
    claims.fail_job(s, row.id, reason.fault())


def _status(s: Session, row: Job, step: Step) -> str | None:
    return s.scalar(
        select(JobStep.status).where(JobStep.job_id == row.id, JobStep.name == str(step)).execution_options(populate_existing=True)
    )
