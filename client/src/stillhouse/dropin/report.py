"""A job's outcome as tables for a terminal or a notebook: what each model was trained on, how the program scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse._client import Stillhouse
from stillhouse._low_answers import low_held_out_answer
from stillhouse._references import named, not_beaten
from stillhouse.types import CompileJob, Coverage, Curve, FineTuneJob

ROLES = ("baseline", "baseline_constrained", "teacher", "incumbent", "compiled")
_NOTHING = "–"


def report(client: Stillhouse, job: CompileJob) -> str:
    """A table of predictors (rows, what was rejected, losses), one of scores with 95 % intervals, the difference, and what it cost."""
    coverage = client.compile_jobs.coverage(job.id)
    curves = {curve.fine_tuning_job: curve for curve in client.compile_jobs.curves(job.id)}
    parts = [f"{job.id}: {job.status}"]
    if job.fine_tuning_jobs:
        heads = ("predictor", "rows", "rejected", "loss", "model")
        parts.append(_table(heads, [row for child in job.fine_tuning_jobs for row in _trained(child, coverage, curves.get(child.id))]))
    if scores := list(_scores(job.evaluation or {})):
        parts.append(_table(("role", "score", "95 % interval", "n", "undecided", "parse failures"), scores))
    return "\n\n".join([*parts, "\n".join((*_last_lines(job), low_held_out_answer(client, job)))]).rstrip()


def _trained(child: FineTuneJob, coverage: Coverage | None, curve: Curve | None) -> Iterator[tuple[str, ...]]:
    """A row for each predictor that a model was trained on; the loss is the model's."""
    key = _key_of(child, coverage)
    loss, model = _loss(curve), child.fine_tuned_model or child.status
    if not key:
        yield child.predictor or "all predictors", str(child.rows or 0), _NOTHING, loss, model
    for name, part in key.items():
        yield name, str(part["rows"]), str(sum(part["rejected"].values())), loss, model


def _key_of(child: FineTuneJob, coverage: Coverage | None) -> Mapping[str, Any]:
    keys = coverage.keys if coverage is not None else []
    return next((key["predictors"] for key in keys if (key["lm"], key["predictor"]) == (child.lm, child.predictor or "")), {})


def _loss(curve: Curve | None) -> str:
    """The first that was told, and the last."""
    told = [point["loss"] for point in (curve.points if curve is not None else []) if point.get("loss") is not None]
    return f"{told[0]:.3f} → {told[-1]:.3f}" if told else _NOTHING


def _scores(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    roles = [(role, evaluation.get(role)) for role in ROLES]
    for role, found in [*roles, *named(evaluation.get("references"))]:
        if found and found.get("score") is not None:
            span = f"{found['low']:.3f} to {found['high']:.3f}" if found.get("low") is not None else _NOTHING
            counts = (str(found.get(name, _NOTHING)) for name in ("n", "undecided", "parse_failures"))
            yield role, f"{found['score']:.3f}", span, *counts


def _last_lines(job: CompileJob) -> Iterator[str]:
    evaluation = job.evaluation or {}
    delta = evaluation.get("delta")
    if delta and delta.get("value") is not None:
        span = f"{delta['value']:+.3f} ({delta['low']:+.3f} to {delta['high']:+.3f})"
        yield f"compiled against {delta['against']}: {span}, {delta['verdict']}{not_beaten(delta, evaluation.get('references'))}"
    elif delta:
        yield f"compiled against {delta['against']}: {delta['verdict']}"
    calls = [f"{role} {_of_a_call(found)}" for role in ROLES if (found := (evaluation.get(role) or {}).get("per_call"))]
    if calls:
        yield f"a call: {'; '.join(calls)}"
    yield from dict.fromkeys(f"trained with {_spelled(child.train_options)}" for child in job.fine_tuning_jobs if child.train_options)
    if job.cost is not None:
        unknown = f"unknown ({', '.join(job.cost.unknown)})" if job.cost.unknown else "unknown"
        yield f"cost {unknown if job.cost.total_usd is None else f'${job.cost.total_usd:.2f}'}"
    if job.error is not None:
        yield f"{job.error.code}: {job.error.message}"


def _spelled(options: Mapping[str, Any]) -> str:
    """The options that most depends on."""
    named = ((name, options.get(name)) for name in ("n_epochs", "batch_size", "learning_rate", "lora_r"))
    return ", ".join(f"{name} {value:g}" for name, value in named if isinstance(value, (int, float)))


def _of_a_call(found: Mapping[str, Any]) -> str:
    """Its tokens and its price."""
    price = "price unknown" if found.get("usd") is None else f"${1000 * found['usd']:.4f} for 1,000"
    return f"{found['prompt_tokens']:g} tokens in, {found['completion_tokens']:g} out, {price}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows))
