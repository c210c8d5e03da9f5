"""Another job from the traces of an earlier one: other rows kept, other prompts for the student, another student. No teacher is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from distill.catalog.keys import Caller
from distill.db import Session
from distill.errors import Conflict
from distill.jobs import budget, facts, repository, service
from distill.jobs.models import Job, JobStep
from distill.jobs.status import Step, StepStatus
from distill.spec import Budget, CompileSpec, LmSpec, read_spec

_PER_LM = ("train_options", "prompt_adapter", "prompt")
"""Stand in the job or in an entry of `lms{}`."""


def refilter(s: Session, project_id: str, caller: Caller | None, job_id: str, changes: Mapping[str, Any]) -> Job:
    """Submit a job like an earlier one but for `changes`, which are fields of the compile spec; objects are merged, field by field.

    It takes the teachers' rollouts that are stored, whatever has become of their connections since. Raises NotFound, Invalid,
    Conflict when the earlier job has not finished its bootstrap, or traces of it are gone.
    """
    job = repository.get(s, project_id, job_id)
    done = s.scalar(select(JobStep.status).where(JobStep.job_id == job.id, JobStep.name == str(Step.BOOTSTRAP)))
    if done != StepStatus.SUCCEEDED:
        message = f"job {job.id} is {job.status} in step {job.step}: its traces are complete when its bootstrap has succeeded"
        raise Conflict(message, code="no_traces", param="id")
    if job.erased_at is not None or facts.lacks_traces(s, job):
        raise Conflict(f"traces of job {job.id} were removed or erased: make a new job", code="job_erased", param="id")
    given = {name: value for name, value in changes.items() if value is not None}
    spec = _changed(_as_it_stands(job), given)
    return service.submit(s, project_id, caller, spec, derived_from=job.id, priority=job.priority)


def _as_it_stands(job: Job) -> CompileSpec:
    """With the budget that holds now, but for its deadline, which was the earlier job's."""
    limits = Budget.model_validate(budget.as_asked(job)).model_copy(update={"deadline": None})
    return repository.spec_of(job).model_copy(update={"budget": limits})


def _changed(spec: CompileSpec, changes: Mapping[str, Any]) -> CompileSpec:
    """Raises Invalid."""
    old = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    new = {**old, **{name: _merged(old.get(name), value) for name, value in changes.items() if name != "lms"}}
    lms = changes.get("lms") or {}
    inherited = {name: changes[name] for name in _PER_LM if name in changes}
    new["lms"] = {name: _lm(spec, lm, {**inherited, **lms.get(name, {})}) for name, lm in spec.lms.items()}
    new["lms"].update({name: value for name, value in lms.items() if name not in spec.lms})
    new["rollouts"] = {**new["rollouts"], "stored_only": True, "retry_failed": False}
    new["smoke_test"] = None
    new["auto_start"] = changes.get("auto_start", True)
    return read_spec(new)


def _merged(old: Any, value: Any) -> Any:
    return {**old, **value} if isinstance(old, dict) and isinstance(value, dict) and "type" not in value else value


def _lm(spec: CompileSpec, lm: LmSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """An LM of the student with what is given for it. What the submit check had derived from a part that changes is derived anew."""
    old = lm.model_dump(mode="json", by_alias=True, exclude_none=True)
    stale: set[str] = set()
    if given.get("connection", lm.connection) != lm.connection:
        stale |= {"model", "base_model", "trainer"}
    if given.get("model", lm.model) != lm.model:
        stale |= {"base_model"}
    return {**{name: value for name, value in old.items() if name not in stale}, **{n: _merged(old.get(n), v) for n, v in given.items()}}
