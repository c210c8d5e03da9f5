"""What a job would ask of LMs and trainers, before it is made: from the trace store where it can, else as it went before.

Nothing is guessed. What nobody can know yet is None, and `unknown` says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill.catalog import connections, traces
from distill.catalog.prices import price_of_lm
from distill.db import Session, unit_of_work
from distill.errors import Detail, Invalid
from distill.execute import context as contexts
from distill.execute import demos, validate
from distill.execute.context import Example, JobContext
from distill.execute.rollout_slice import Item, Slice
from distill.jobs import repository, trained
from distill.jobs.models import Job
from distill.pipeline.bootstrap import has_passed
from distill.pipeline.costs import Asked, saved, total
from distill.pipeline.demos import is_tried
from distill.pipeline.plan import job_keys, lm_of_key, predictors_of_rows, roles_to_evaluate
from distill.pipeline.refusals import Reason, Refused
from distill.pipeline.roles import DEMOS_DROPPED, DEMOS_KEPT, Cast, rendering_cast, teacher_roles
from distill.spec import Budget, CompileSpec, Evaluate, calls_of_a_rollout, digest
from distill.storage import BlobStore

Json = dict[str, Any]
AT_ONCE = 500
"""Examples that are looked up in one transaction."""
SAMPLE = 50
"""Stored rollouts that a rate is taken from."""
EARLIER_JOBS = 20


@dataclass(frozen=True)
class Draft:
    """A job that was made in a transaction to be taken back."""

    job: JobContext
    spec_digest: str


@dataclass(frozen=True)
class RoleEstimate:
    """`stored` examples need no call. `rollouts` are to be run at most: an example may end at its first pass. `seconds` are of them all."""

    role: str
    examples: int
    stored: int
    rollouts: int
    calls: int | None = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    usd: float | None = 0.0
    seconds: float | None = 0.0


@dataclass(frozen=True)
class Estimate:
    """`seconds` of the whole job, with rollouts beside each other; `training_seconds` of the trainer alone."""

    spec_digest: str
    train_examples: int
    holdout_examples: int
    roles: tuple[RoleEstimate, ...]
    trainings: int
    reused_trainings: int
    training_seconds: float | None
    seconds: float | None
    unknown: tuple[str, ...]
    warnings: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class _Rate:
    """What one rollout takes; None for what is not known."""

    calls: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    usd: float | None = None
    seconds: float | None = None


@dataclass
class _Look:
    """Rollouts of a role as they are found. Equal inputs share a rollout, so they are counted by digest."""

    examples: int = 0
    stored: int = 0
    lacking: set[str] = field(default_factory=set)


def draft(s: Session, job: Job) -> Draft:
    """Read a job; the result needs no session."""
    return Draft(contexts.load(s, job.id), job.spec_digest)


def estimate(store: BlobStore, made: Draft, ask: Callable[[Json], Json]) -> Estimate:
    """`ask` answers the `validate` op of a runner; no transaction is open meanwhile. `store` has the draft's rows, and takes its split.

    Raises Invalid where the job would stop before it asks anybody.
    """
    try:
        validate.check(store, made.job)
        asked = validate.questions(store, made.job)
        found = validate.find_out(store, made.job, asked, ask(asked))
    except Refused as refused:
        raise _invalid(refused.reason) from None
    job, unknown = replace(made.job, stored_plan=found.plan), dict[str, None]()
    before = [_role(job, role, _parts(store, job, role), unknown) for role in _roles_before_training(job)]
    compiled = None if any(one.rollouts for one in before if one.role.startswith("teacher:")) else _trained_before(job)
    job = compiled or job
    after = [_role(job, role, _parts(store, job, role), unknown) for role in roles_to_evaluate(job.spec, found.plan.holdout_from)]
    roles, keys = (*before, *after), len(job_keys(job.spec, job.student))
    training = 0.0 if compiled else _training_seconds(job, unknown)
    asking = total(one.seconds for one in roles)
    return Estimate(
        spec_digest=made.spec_digest,
        train_examples=found.plan.train_examples,
        holdout_examples=found.plan.holdout_examples,
        roles=roles,
        trainings=0 if compiled else keys,
        reused_trainings=keys if compiled else 0,
        training_seconds=training,
        seconds=total([None if asking is None else asking / job.spec.num_threads, training]),
        unknown=tuple(unknown),
        warnings=tuple(found.told),
    )


def _invalid(reason: Reason) -> Invalid:
    details = tuple(Detail(**detail) for detail in reason.data.get("details", ()))
    return Invalid(reason.message, code=reason.code, param=reason.param, details=details)


# ------------------------------------------------------------------ rollouts


def _roles_before_training(job: JobContext) -> list[str]:
    teachers = [] if job.spec.teacher == "labels" else teacher_roles(job.spec)
    return [*teachers, *((DEMOS_KEPT, DEMOS_DROPPED) if is_tried(job.spec, job.student) else ())]


def _parts(store: BlobStore, job: JobContext, role: str) -> Iterator[Sequence[Example]]:
    if role in (DEMOS_KEPT, DEMOS_DROPPED):
        yield demos.examples(store, job)
        return
    side = job.side_of(role)
    last = job.plan.train_examples if side == "train" else job.plan.holdout_examples
    for start in range(0, last, AT_ONCE):
        yield job.examples(store, side, start, min(start + AT_ONCE, last))


def _role(job: JobContext, role: str, parts: Iterable[Sequence[Example]], unknown: dict[str, None]) -> RoleEstimate:
    look, cast = _Look(), _cast(job, role)
    for examples in parts:
        look.examples += len(examples)
        if cast is None:  # its models are still to be trained: nothing of it can be stored
            look.lacking |= {str(example.index) for example in examples}
        else:
            _look_up(Slice(job, role, examples), look)
    rollouts = len(look.lacking)
    found = RoleEstimate(role, look.examples, look.stored, rollouts)
    if not rollouts:
        return found
    with unit_of_work("api") as s:
        rate = _rate(s, job, cast or rendering_cast(job.spec, job.student), role, unknown)
    return replace(
        found,
        calls=_whole(rate.calls, rollouts),
        prompt_tokens=_whole(rate.prompt_tokens, rollouts),
        completion_tokens=_whole(rate.completion_tokens, rollouts),
        usd=None if rate.usd is None else rate.usd * rollouts,
        seconds=None if rate.seconds is None else rate.seconds * rollouts,
    )


def _cast(job: JobContext, role: str) -> Cast | None:
    return None if role == "compiled" and not job.models else job.cast(role)


def _look_up(piece: Slice, look: _Look) -> None:
    """Without reading the traces: which are there, and which of them have passed."""
    with unit_of_work("api") as s:
        piece.find(s)
        judged = piece.stored_scores(s) if piece.stop_on_pass else {}
    for item in piece.items:
        lacking = [] if piece.stored_only else _lacking(piece, item, judged)
        look.stored += not lacking
        look.lacking.update(lacking)


def _lacking(piece: Slice, item: Item, judged: Mapping[tuple[str, str], Json]) -> list[str]:
    lacking = []
    for key in item.digests:
        if key not in piece.names:
            lacking.append(key)
        elif piece.stop_on_pass and has_passed(judged.get((key, item.example.digest))):
            break
    return lacking


# ------------------------------------------------------------------ rates


def _rate(s: Session, job: JobContext, cast: Cast, role: str, unknown: dict[str, None]) -> _Rate:
    """As this program, or one of the same code, went with these LMs; else its calls and tokens as they were with others."""
    lms = [(lm, connections.by_id(s, lm.connection_id)) for lm in cast.slots.values()]
    asked = [Asked(f"{lm.connection}/{lm.model}", price_of_lm(connection, lm)) for lm, connection in lms]
    unknown.update(dict.fromkeys(f"price of {one.name}" for one in asked if one.price is None))
    own = _newest(s, job, cast.program_digest, cast.lms_digest)
    bodies = own or _newest(s, job, cast.program_digest, None)
    if not own:
        unknown[f"time of {role}: these LMs have not run this program here"] = None
    if not bodies:
        unknown[f"tokens of {role}: this program has not been run here"] = None
        calls = calls_of_a_rollout(cast.program)
        if calls is None:
            unknown[f"calls of {role}: this program is code, and has not been run here"] = None
        return _Rate(calls)
    rate = _average(bodies, asked)
    return rate if own else replace(rate, seconds=None, usd=_at_price(rate, asked))


def _newest(s: Session, job: JobContext, program: str, lms: str | None) -> list[Json]:
    """The newest traces of a program, or of the first of the same code that has any, with those of its rollouts that are shared."""
    if own := traces.newest(s, job.project_id, program, lms, SAMPLE):
        return own
    others = job.same_code.get(program, ())
    return next(filter(None, (traces.newest(s, job.project_id, one.digest, lms, SAMPLE, failed=one.failed) for one in others)), [])


def _average(bodies: Sequence[Json], asked: Sequence[Asked]) -> _Rate:
    spent, count = saved(bodies, asked).values(), len(bodies)
    usd = total(one.usd for one in spent)
    return _Rate(
        sum(one.calls for one in spent) / count,
        sum(one.prompt_tokens for one in spent) / count,
        sum(one.completion_tokens for one in spent) / count,
        None if usd is None else usd / count,
        sum(body["seconds"] for body in bodies) / count,
    )


def _at_price(rate: _Rate, asked: Sequence[Asked]) -> float | None:
    """Of an LM that has not been asked yet; with several nobody knows who would be asked how much."""
    if len(asked) != 1:
        return None
    return asked[0].usd({"prompt_tokens": rate.prompt_tokens, "completion_tokens": rate.completion_tokens})


def _whole(each: float | None, rollouts: int) -> int | None:
    return None if each is None else math.ceil(each * rollouts)


# ------------------------------------------------------------------ training


def _trained_before(job: JobContext) -> JobContext | None:
    """The job with the models of an earlier one whose training was the same, if they are still there."""
    wanted = _training(job.spec, job.trainset.digest)
    with unit_of_work("api") as s:
        for row in repository.succeeded_of_program(s, job.project_id, job.spec.program_id, EARLIER_JOBS):
            earlier = contexts.load(s, row.id)
            if _training(repository.spec_of(row), earlier.trainset.digest) == wanted and trained.all_there(s, row.id):
                return replace(job, models=earlier.models, spec=job.spec.model_copy(update={"demos": earlier.spec.demos}))
    return None


def _training(spec: CompileSpec, rows: str) -> str:
    """Over what decides the weights, given that the traces are the same; of a valset only that there is one."""
    apart: Json = {
        "name": None,
        "metadata": {},
        "auto_start": True,
        "num_threads": 1,
        "program_name": None,
        "suffix": None,
        "smoke_test": None,
        "rollouts": spec.rollouts.model_copy(update={"retry_failed": False}),
    }
    judged = {
        "evaluate": Evaluate(),
        "incumbent_artifact": None,
        "budget": Budget(),
        "smoke_test": None,
        "valset": "valset" if spec.valset else None,
    }
    return digest(spec.model_copy(update={**apart, **judged, "trainset": rows}))


def _training_seconds(job: JobContext, unknown: dict[str, None]) -> float | None:
    """As long for a row as earlier trainings of the base model took; every rollout may become a row for each predictor."""
    seconds: list[float | None] = []
    with unit_of_work("api") as s:
        for key in job_keys(job.spec, job.student):
            lm = lm_of_key(job.spec, key)
            pace = trained.seconds_a_row(s, job.project_id, lm.trainer, lm.base_model)
            if pace is None:
                unknown[f"time of training {lm.base_model}: none was trained here yet"] = None
            rows = job.plan.train_examples * len(predictors_of_rows(job.spec, job.student, key))
            seconds.append(None if pace is None else pace * rows)
    return total(seconds)
