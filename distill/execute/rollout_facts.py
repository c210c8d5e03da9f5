"""What the rows of a job's rollouts add up to."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select

from distill.catalog import row_facts
from distill.catalog.facts import RowFact
from distill.catalog.row_facts import UNDECIDED, NewFact
from distill.db import Session
from distill.execute.context import JobContext
from distill.jobs.pairs import score_of
from distill.jobs.trained import COMPILED
from distill.pipeline.costs import TOKENS
from distill.pipeline.evaluate import Outcome, evaluation
from distill.pipeline.plan import roles_to_evaluate
from stillhouse_programs.spec import ClientMetric, MetricSpec, ReferenceMetric, metric_fields


def rollout_fact(
    job_id: str, role: str, example: int, n: int, digest: str, trace: Mapping[str, Any], score: Mapping[str, Any] | None, *, reused: bool
) -> NewFact:
    """One rollout of a role, as readers and later steps see it."""
    error = trace.get("error") or {}
    called = sorted({call["predictor"] for call in trace["calls"]})
    return NewFact(
        job_id,
        "rollout",
        role,
        example,
        n,
        trace["status"],
        trace_digest=digest,
        score=score["value"] if score and score["status"] == "ok" else None,
        passed=bool(score["passed"]) if score else trace["status"] == "ok",
        reused=reused,
        message=f"{error['type']}: {error['message']}"[:300] if error else (score or {}).get("error"),
        data={"score": score["status"] if score else None, "seconds": trace["seconds"], "usage": _tokens(trace["usage"]), "called": called},
    )


def _tokens(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout's calls, tokens and price; by model they are in the trace."""
    return {name: usage[name] for name in ("calls", *TOKENS, "usd") if usage.get(name) is not None}


def undecided_fact(job_id: str, role: str, example: int, n: int, code: str, message: str) -> NewFact:
    """An example that could not be run to its end; `n` is the number of the rollout that is missing."""
    return NewFact(job_id, "rollout", role, example, n, UNDECIDED, message=f"{code}: {message}"[:300])


def commonest_errors(s: Session, job_id: str, limit: int = 3) -> dict[str, int]:
    """The errors of a job's teacher rollouts with their counts, the commonest first; also what kept some from being run."""
    query = select(RowFact.message, func.count()).where(RowFact.job_id == job_id, RowFact.kind == "rollout", RowFact.role.like("teacher:%"))
    query = query.where(RowFact.status.in_(["failed", "unparsable", UNDECIDED]), RowFact.message.is_not(None))
    rows = s.execute(query.group_by(RowFact.message).order_by(func.count().desc(), RowFact.message).limit(limit))
    return {" ".join(str(message).split())[:160]: count for message, count in rows}


def failed_examples(s: Session, job_id: str) -> dict[str, int]:
    """How many examples gave a teacher nothing that could be judged, by what went wrong."""
    judged = and_(RowFact.status == "ok", func.coalesce(RowFact.data["score"].as_string(), "") != "failed")
    return _examples(s, job_id, RowFact.role.like("teacher:%"), ~func.bool_or(judged))


def undecided_examples(s: Session, job_id: str) -> dict[str, int]:
    """How many held-out examples could not be run to their end, over all roles, by what kept them."""
    return _examples(s, job_id, RowFact.role.not_like("%:%"), func.bool_or(RowFact.status == UNDECIDED))


def _examples(s: Session, job_id: str, roles: ColumnElement[bool], having: ColumnElement[bool]) -> dict[str, int]:
    """Examples by reason, each counted once a role: the code of what kept it from being run before the status of its rollouts."""
    code = func.max(case((RowFact.status == UNDECIDED, func.split_part(RowFact.message, ":", 1))))
    metric = func.max(case((RowFact.status == "ok", "metric_failed")))
    why = func.coalesce(code, metric, func.min(RowFact.status)).label("why")
    each = select(why).where(RowFact.job_id == job_id, RowFact.kind == "rollout", roles).group_by(RowFact.role, RowFact.example_index)
    found = each.having(having).subquery()
    return {str(reason): count for reason, count in s.execute(select(found.c.why, func.count()).group_by(found.c.why))}


def evaluation_of(s: Session, job: JobContext) -> dict[str, Any] | None:
    """The job's `evaluation`, from the rollouts of its evaluated roles; None without a holdout."""
    roles = roles_to_evaluate(job.spec, job.plan.holdout_from)
    outcomes = {role: [_outcome(fact) for fact in row_facts.every(s, job.job_id, "rollout", role)] for role in roles}
    decided = {role: [outcome for outcome in found if outcome.status != UNDECIDED] for role, found in outcomes.items()}
    beaten = {"artifact": job.spec.incumbent_artifact, "alias": job.spec.evaluate.incumbent}
    undecided = {role: len(found) - len(decided[role]) for role, found in outcomes.items()}
    return evaluation(decided, metric_name(job.spec.metric), beaten, undecided)


def compiled_outcomes(s: Session, job_id: str) -> list[Outcome]:
    """How the compiled program did on each held-out example that was run."""
    return [_outcome(fact) for fact in row_facts.every(s, job_id, "rollout", COMPILED) if fact.status != UNDECIDED]


def _outcome(fact: RowFact) -> Outcome:
    data = fact.data or {}
    return Outcome(fact.example_index, score_of(fact), fact.status, data.get("seconds") or 0.0, data.get("usage") or {})


def metric_name(metric: MetricSpec) -> str:
    """`exact_match(category)`; of a metric that is code its reference."""
    if isinstance(metric, ReferenceMetric):
        return metric.reference
    if isinstance(metric, ClientMetric):
        return metric.name
    fields = metric_fields(metric)
    return f"{metric.type}({', '.join(fields)})" if fields else str(metric.type)
