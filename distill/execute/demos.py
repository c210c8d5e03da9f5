"""The trial of demos: the untrained student runs some examples with its demos and without, and the better way is kept with the plan."""

from typing import Any

from distill.catalog import row_facts
from distill.catalog.row_facts import NewFact
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow, rollouts
from distill.execute.context import Example, JobContext, as_inputs
from distill.execute.ports import Ports
from distill.execute.rollout_slice import Slice
from distill.execute.work import Work
from distill.jobs import events, repository
from distill.pipeline.demos import EXAMPLES, choose, spread
from distill.pipeline.leaks import demos_by_inputs
from distill.pipeline.roles import DEMOS_DROPPED, DEMOS_KEPT
from distill.storage import BlobStore


def run(work: Work, ports: Ports) -> None:
    """Raises Refused, Troubled, Stopped."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
    chosen = examples(ports.store, job)
    pieces = [Slice(job, role, chosen) for role in (DEMOS_KEPT, DEMOS_DROPPED)]
    rollouts.fill(work, ports, job, pieces)
    trial = choose(*map(_scores, pieces))
    facts: list[NewFact] = [fact for piece in pieces for fact in rollouts.facts_of(piece)[0]]

    def store(s: Session) -> None:
        row_facts.store(s, facts)

    def keep(s: Session) -> None:
        row = repository.lock(s, job.job_id)
        row.plan = job.plan.model_copy(update={"trial": trial}).model_dump(mode="json")
        events.append(s, row.id, "log", trial.why, {"code": "demos_chosen", **trial.as_json()})

    work.publish(before=store, locked=keep, on_closed=flow.after_bootstrap)


def examples(store: BlobStore, job: JobContext) -> list[Example]:
    """Rows of the trainset, evenly apart, but for those that a demo shows."""
    shown = demos_by_inputs(job.student)
    some = job.examples_at(store, spread(job.plan.train_examples, EXAMPLES + len(shown)))
    return [example for example in some if as_inputs(job.student, example).digest not in shown][:EXAMPLES]


def _scores(piece: Slice) -> dict[int, float | None]:
    """By example; an answer that cannot be read scores 0, and what could not be run or judged has none."""
    return {item.example.index: _score(piece.stored(item, 0).score) for item in piece.items}


def _score(score: Any) -> float | None:
    return score["value"] if score is not None and score["status"] == "ok" else None
