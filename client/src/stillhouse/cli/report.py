"""A job's evaluation as Markdown: for a terminal, a pull request, or a CI summary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse._references import named, not_beaten
from stillhouse.types import CompileJob, Evaluation, Pair, RoleScore

CELL = 100
"""Longest text in a cell of the lists of examples, in characters."""


def markdown(job: CompileJob, evaluation: Evaluation, regressions: Sequence[Pair], fixes: Sequence[Pair]) -> str:
    """`regressions` and `fixes` are as many as are to be shown; how many there are stands in the evaluation."""
    parts = [f"# {_plain(job.program_name or job.id)}", _about(job)]
    if evaluation.data:
        parts += ["\n".join(_scores(evaluation)), _verdict(evaluation)]
        delta = evaluation.delta or {}
        parts += _examples("Regressions", regressions, delta.get("regressions"))
        parts += _examples("Fixes", fixes, delta.get("fixes"))
    else:
        parts.append(evaluation.note or "There is no evaluation yet.")
    if job.warnings:
        parts.append("## Warnings\n\n" + "\n".join(f"- {_plain(warning.message)}" for warning in job.warnings))
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(job: CompileJob) -> str:
    text = f"Job `{job.id}`: {job.status}."
    if job.artifact:
        text += f" Artifact `{job.artifact.id}`."
    return text + (f" {_plain(job.error.message)}" if job.error else "")


def _scores(evaluation: Evaluation) -> Iterator[str]:
    yield f"{evaluation.n} held-out examples, metric `{evaluation.metric}`."
    yield ""
    yield "| role | score | 95 % interval | n | undecided | parse failures | median seconds | tokens in | tokens out |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for role in evaluation.data:
        yield "| " + " | ".join(_score_cells(role)) + " |"
    for name, found in named(evaluation.references):
        cells = [name, _number(found["score"]), _interval(found["low"], found["high"]), str(found["n"]), *("–",) * 5]
        yield "| " + " | ".join(cells) + " |"


def _score_cells(role: RoleScore) -> list[str]:
    seconds = role.latency_seconds.get("median")
    return [
        role.role,
        _number(role.score),
        _interval(role.low, role.high),
        str(role.n),
        str(role.undecided),
        str(role.parse_failures),
        "–" if seconds is None else f"{seconds:.2f}",
        str(role.usage.get("prompt_tokens", "–")),
        str(role.usage.get("completion_tokens", "–")),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _verdict(evaluation: Evaluation) -> str:
    delta = evaluation.delta
    if not delta:
        return "Nothing to compare with: no verdict."
    if delta.get("value") is None:
        return f"Compared with {delta['against']}: too few pairs to say."
    span = f"{delta['value']:+.3f} ({delta['low']:+.3f} to {delta['high']:+.3f})"
    counts = f"{delta.get('pairs')} pairs, {delta.get('fixes', '–')} fixes, {delta.get('regressions', '–')} regressions"
    return f"Compared with {delta['against']}: **{delta['verdict']}**{not_beaten(delta, evaluation.references)}, {span}; {counts}."


def _examples(title: str, pairs: Sequence[Pair], total: int | None) -> list[str]:
    if not pairs:
        return []
    count = f"{len(pairs)} of {total}" if total and total > len(pairs) else str(len(pairs))
    lines = [f"| row | example | compiled | {pairs[0].against.get('role', 'other')} |", "| --- | --- | --- | --- |"]
    for pair in pairs:
        lines.append(f"| {pair.row} | {_cell(pair.data)} | {_answer(pair.compiled)} | {_answer(pair.against)} |")
    return [f"## {title} ({count})", "\n".join(lines)]


def _answer(side: Mapping[str, Any]) -> str:
    return _cell(side.get("outputs")) if side.get("status") == "ok" else _cell(side.get("message") or side.get("status"))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _plain(text if len(text) <= CELL else text[: CELL - 1] + "…")


def _plain(text: str) -> str:
    """Nothing in it makes a cell, a line or a tag of its own."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
