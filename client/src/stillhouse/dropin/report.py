"""A job's outcome as a table for a terminal or a notebook."""

from __future__ import annotations

from typing import Any

from stillhouse.types import CompileJob

ROLES = ("baseline", "baseline_constrained", "teacher", "incumbent", "compiled")


def report(job: CompileJob) -> str:
    """Scores by role with their 95 % intervals, the verdict, what the fine-tune jobs trained on, and what it cost."""
    lines = [f"{job.id}: {job.status}"]
    evaluation = job.evaluation or {}
    for role in ROLES:
        if (found := evaluation.get(role)) and found.get("score") is not None:
            lines.append(f"  {role:<20} {found['score']:.3f}  ({found['low']:.3f} to {found['high']:.3f})")
    if delta := evaluation.get("delta"):
        lines.append(f"  compared with {delta['against']}: {delta['verdict']}")
    lines += [f"  {_name(child)}: {child.status}, {getattr(child, 'rows', None) or 0} rows" for child in job.fine_tuning_jobs]
    if job.cost is not None and (total := getattr(job.cost, "total_usd", None)) is not None:
        lines.append(f"  cost ${total:.2f}")
    if job.error is not None:
        lines.append(f"  {job.error.code}: {job.error.message}")
    return "\n".join(lines)


def _name(child: Any) -> str:
    predictor = getattr(child, "predictor", "")
    return f"LoRA for {predictor or 'all predictors'} ({getattr(child, 'lm', '')})"
