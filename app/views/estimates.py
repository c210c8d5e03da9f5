"""An estimate as its readers see it."""

from __future__ import annotations

from collections.abc import Iterable

from app.schemas.compile_jobs import WarningRead
from app.schemas.estimates import EstimateRead, RoleEstimateRead, RowsEstimateRead, TrainingEstimateRead
from app.views.costs import compute_usd
from distill.catalog.usage import sum_usd
from distill.estimate import Estimate

NO_TRAINING_PRICE = "price of training"


def estimate_read(found: Estimate) -> EstimateRead:
    """Money is rounded as a job's cost is."""
    seconds = found.training_seconds
    training = None if seconds is None else compute_usd(seconds)
    unpriced = [NO_TRAINING_PRICE] if seconds and training is None else []
    return EstimateRead(
        spec_digest=found.spec_digest,
        rows=RowsEstimateRead(train=found.train_examples, holdout=found.holdout_examples),
        calls=_sum(role.calls for role in found.roles),
        prompt_tokens=_sum(role.prompt_tokens for role in found.roles),
        completion_tokens=_sum(role.completion_tokens for role in found.roles),
        total_usd=sum_usd([*(role.usd for role in found.roles), training]),
        seconds=_rounded(found.seconds),
        training=TrainingEstimateRead(
            fine_tuning_jobs=found.trainings,
            reused=found.reused_trainings,
            compute_seconds=_rounded(seconds),
            compute_usd=training,
        ),
        roles=[RoleEstimateRead.model_validate(role) for role in found.roles],
        unknown=[*found.unknown, *unpriced],
        warnings=[WarningRead.model_validate(dict(warning)) for warning in found.warnings],
    )


def _sum(parts: Iterable[int | None]) -> int | None:
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
