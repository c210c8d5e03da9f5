"""What a job has cost, as its readers see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.schemas.compile_jobs import CostRead, ModelCost
from distill.catalog.usage import LmCost, rounded_usd, sum_usd
from distill.jobs.models import FineTuneJob
from distill.settings import get_settings


def cost_read(costs: Sequence[LmCost], children: Sequence[FineTuneJob]) -> CostRead:
    """Money that nobody can name is null and its reason is in `unknown`; it never counts as nothing."""
    paid, saved = [cost for cost in costs if cost.kind == "paid"], [cost for cost in costs if cost.kind == "saved"]
    teacher = _usd(cost for cost in paid if cost.side == "teacher")
    student = _usd(cost for cost in paid if cost.side == "student")
    seconds = sum(float((one.result or {}).get("seconds") or 0) for one in children)
    compute = compute_usd(seconds)
    unpriced = sorted({cost.model for cost in costs if cost.usd is None})
    return CostRead(
        calls=sum(cost.calls for cost in paid),
        prompt_tokens=sum(cost.prompt_tokens for cost in paid),
        completion_tokens=sum(cost.completion_tokens for cost in paid),
        cached_tokens=sum(cost.cached_tokens for cost in paid),
        teacher_usd=teacher,
        student_usd=student,
        judge_usd=0.0,
        compute_seconds=round(seconds, 1),
        compute_usd=compute,
        saved_calls=sum(cost.calls for cost in saved),
        saved_by_reuse_usd=_usd(saved),
        total_usd=sum_usd([teacher, student, compute]),
        unknown=[f"price of {model}" for model in unpriced] + (["price of training"] if compute is None else []),
        models=[_model(cost) for cost in costs],
    )


def _model(cost: LmCost) -> ModelCost:
    return ModelCost(
        model=cost.model,
        side=cost.side,
        kind=cost.kind,
        calls=cost.calls,
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        cached_tokens=cost.cached_tokens,
        usd=rounded_usd(cost.usd),
    )


def compute_usd(seconds: float) -> float | None:
    """What the trainings cost; no training costs nothing."""
    hourly = get_settings().costs.training_hour_usd
    if seconds and hourly is None:
        return None
    return rounded_usd(seconds / 3600 * (hourly or 0.0))


def _usd(costs: Iterable[LmCost]) -> float | None:
    return sum_usd(cost.usd for cost in costs)
