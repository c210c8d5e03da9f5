"""A job's outcome as a table for a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.types import CompileJob

ROLES = ("baseline", "baseline_constrained", "teacher", "incumbent", "compiled")
HEAD = ("role", "score", "95 % interval", "parse failures")


def report(job: CompileJob) -> str:
    """Scores by role with their 95 % intervals, the verdict, what the fine-tune jobs trained on, and what it cost."""
    evaluation = job.evaluation or {}
    lines = [f"{job.id}: {job.status}", *_table([row for role in ROLES if (row := _row(role, evaluation.get(role)))])]
    if delta := evaluation.get("delta"):
        lines.append(f"  compared with {delta['against']}: {delta['verdict']}")
    lines += [f"  {_name(child)}: {child.status}, {getattr(child, 'rows', None) or 0} rows" for child in job.fine_tuning_jobs]
    if job.cost is not None and (total := getattr(job.cost, "total_usd", None)) is not None:
        lines.append(f"  cost ${total:.2f}")
    if job.error is not None:
        lines.append(f"  {job.error.code}: {job.error.message}")
    return "\n".join(lines)


def _row(role: str, found: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    if not found or found.get("score") is None:
        return None
    span = f"{found['low']:.3f} to {found['high']:.3f}" if found.get("low") is not None else "–"
    return role, f"{found['score']:.3f}", span, str(found.get("parse_failures", "–"))


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    widths = [max(len(row[column]) for row in (HEAD, *rows)) for column in range(len(HEAD))]
    for role, *others in (HEAD, *rows):
        yield f"  {role:<{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))


def _name(child: Any) -> str:
    predictor = getattr(child, "predictor", "")
    return f"LoRA for {predictor or 'all predictors'} ({getattr(child, 'lm', '')})"
