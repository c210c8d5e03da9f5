"""Validate: the programs load, every prompt renders, the data is divided. No LM is called."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from distill.catalog import blobs
from distill.catalog.fields import check_rows
from distill.db import Session, unit_of_work
from distill.errors import Invalid
from distill.execute import context as contexts
from distill.execute import flow
from distill.execute.context import JobContext
from distill.execute.leaks import leaks
from distill.execute.ports import Ports
from distill.execute.tokens import Scale
from distill.execute.work import Work
from distill.jobs import prompt_checks
from distill.jobs.models import Job
from distill.pipeline.demos import is_tried
from distill.pipeline.holdout import Split, without_held_inputs
from distill.pipeline.plan import Plan, Source, divide, measures, warning_of_held_inputs, warnings
from distill.pipeline.refusals import Reason, Refused, nothing_left_to_train
from distill.pipeline.roles import (
    DEMOS_DROPPED,
    Cast,
    baseline_cast,
    demos_cast,
    prompt_adapters,
    rendering_cast,
    same_prompts,
    teacher_cast,
    teacher_role,
)
from distill.pipeline.samples import fixed_samples
from distill.rollouts import RunnerError
from distill.rollouts.bundles import divided, joined, named_bundles
from distill.storage import BlobStore

Json = dict[str, Any]
SILENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Found:
    """The plan, and what the user should know of the rows; `inputs` are the digests of the inputs of the trainset's rows."""

    plan: Plan
    inputs: list[str]
    sides: Split
    told: list[dict[str, str]]


def run(work: Work, ports: Ports) -> None:
    """Raises Refused when the job can't work as it was asked for."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
    check(ports.store, job)
    work.progress(message="Loading the programs")
    asked = questions(ports.store, job)
    reply = _ask_runner(work, ports, job, asked)
    work.progress(message="Loading the tokenizer; a machine's first job unpacks the base model, which takes half a minute")
    Scale(ports.trainers, measures(job.spec, job.student)).check()
    work.check()
    found = find_out(ports.store, job, asked, reply)
    with unit_of_work() as s:
        leaked = leaks(s, ports.store, job, found.inputs, found.sides, found.plan.holdout_from)
    told = [*found.told, *leaked, *_prompt_warnings(job), *_why_full(job)]

    def keep(s: Session) -> None:
        blobs.register(s, ports.store, found.plan.split)

    def opened(s: Session, row: Job, closed: object) -> None:
        flow.after_validate(s, row, found.plan, told)

    work.publish(result={"plan": found.plan.model_dump(mode="json")}, before=keep, on_closed=opened)


def check(store: BlobStore, job: JobContext) -> None:
    """What can be said against a job without its programs. Raises Refused."""
    _check_prompt_adapters(job)
    _check_rows(store, job)


def find_out(store: BlobStore, job: JobContext, asked: Json, reply: Json) -> Found:
    """From what a runner replied to `questions`. Raises Refused when nothing is left to train on."""
    inputs, sides, source, told = _divide(store, job)
    bare = _without_demos(job)
    plan = Plan(
        samples=asked["samples"],
        prompt_hashes=reply["prompt_hash"],
        program_state=reply["program_state"][rendering_cast(job.spec, job.student).prompts],
        dspy_version=reply["dspy_version"],
        split=store.put(json.dumps({"train": sides.train, "holdout": sides.holdout}).encode()),
        train_examples=len(sides.train),
        holdout_examples=job.valset.row_count if source == "valset" and job.valset else len(sides.holdout),
        holdout_from=source,
        state_without_demos=reply["program_state"][bare.prompts] if bare else None,
    )
    return Found(plan, inputs, sides, told)


def _check_prompt_adapters(job: JobContext) -> None:
    for param, lms in (("lms", job.spec.lms), *((f"teacher[{i}].lms", t.lms) for i, t in enumerate(job.spec.teachers))):
        kinds = prompt_adapters(lms)
        if len(kinds) > 1:
            message = f"{param}: a program has one prompt adapter, but its LMs ask for {' and '.join(kinds)}"
            raise Refused(Reason("mixed_prompt_adapters", message, "validate", param, retryable=False))


def _check_rows(store: BlobStore, job: JobContext) -> None:
    """Every row can be used; at submit a stored dataset was checked by its summary alone. Raises Refused."""
    for param, dataset in (("trainset", job.trainset), ("valset", job.valset)):
        if dataset is None:
            continue
        try:
            check_rows(job.student, job.rows(store, dataset), param)
        except Invalid as error:
            details = [asdict(detail) for detail in error.details]
            raise Refused(Reason(error.code, error.message, "validate", error.param, retryable=False, data={"details": details})) from error


def questions(store: BlobStore, job: JobContext) -> Json:
    """What a runner is asked: the `validate` op of its protocol."""
    constrained = "baseline_constrained" in job.spec.evaluate.roles
    student = baseline_cast(job.spec, job.student, constrained=constrained)
    others = [cast for cast in (rendering_cast(job.spec, job.student), _without_demos(job), job.incumbent, *_teacher_casts(job)) if cast]
    samples = fixed_samples(job.student, list(job.rows(store, job.trainset, 0, 2)))
    return {**_request(student, others), "samples": samples, "metric": _metric(job)}


def _ask_runner(work: Work, ports: Ports, job: JobContext, asked: Json) -> Json:
    return joined(_ask_part(work, ports, job, part) for part in divided(asked))


def _ask_part(work: Work, ports: Ports, job: JobContext, asked: Json) -> Json:
    runners = ports.runners.runner(job.project_id, job.job_id, job.python, bundles=named_bundles(asked))
    with runners as runner, work.telling(lambda _: runner.kill()):
        try:
            return runner.ask("validate", silence_seconds=SILENCE_SECONDS, **asked)
        except RunnerError as error:
            raise Refused(Reason(error.code, error.message, "validate", error.param, retryable=False)) from error


def _without_demos(job: JobContext) -> Cast | None:
    """The student without its demos, where it is tried whether it needs them."""
    return demos_cast(DEMOS_DROPPED, job.spec, job.student) if is_tried(job.spec, job.student) else None


def _teacher_casts(job: JobContext) -> Iterator[Cast]:
    """The teachers as they are asked, and as rows are rendered with their prompts if they are."""
    for number, program in enumerate(job.teachers):
        yield teacher_cast(number, job.spec, program)
        if job.spec.render == "teacher":
            yield job.rendering_cast(teacher_role(number))


def _prompt_warnings(job: JobContext) -> list[dict[str, str]]:
    """A model that is trained on a teacher's prompts and asked with the student's."""
    student = rendering_cast(job.spec, job.student)
    others = [number for number in range(len(job.teachers)) if not same_prompts(student, job.rendering_cast(teacher_role(number)))]
    if not others:
        return []
    text = (
        f"render: rows have the prompts of teacher[{others[0]}], which are not those that the student is asked with. "
        "`student` trains on the student's own."
    )
    return [{"code": "prompts_differ", "message": text}]


def _why_full(job: JobContext) -> list[dict[str, str]]:
    """Why `prompt: "auto"` has not chosen compact prompts."""
    reason = prompt_checks.why_full(job.spec) if job.spec.prompt == "auto" else None
    if reason is None:
        return []
    return [{"code": "full_prompts", "message": f"prompt: `auto` chose full prompts, since {reason}."}]


def _request(student: Cast, others: list[Cast]) -> dict[str, Any]:
    return {**student.runner_body(), "teachers": [cast.runner_body() for cast in others]}


def _metric(job: JobContext) -> dict[str, Any]:
    return job.spec.metric.model_dump(mode="json")


def _divide(store: BlobStore, job: JobContext) -> tuple[list[str], Split, Source | None, list[dict[str, str]]]:
    """The digests of the trainset's inputs, the sides, where the holdout comes from, and what the user should know of them.

    Raises Refused when nothing is left to train on.
    """
    digests = [job.digests(row) for row in job.rows(store, job.trainset)]
    inputs, groups = [each.inputs for each in digests], [each.group for each in digests]
    overlap = 0
    if job.valset is not None:
        known = set(groups) | set(inputs)
        overlap = sum(not known.isdisjoint(job.digests(row)) for row in job.rows(store, job.valset))
    all_sides, source = divide(job.spec, groups, job.valset.row_count if job.valset else None)
    sides = without_held_inputs(all_sides, inputs)
    if not sides.train:
        raise Refused(nothing_left_to_train(len(groups)))
    left_out = len(all_sides.train) - len(sides.train)
    return inputs, sides, source, [*warnings(job.spec, sides, source, overlap), *warning_of_held_inputs(left_out)]
