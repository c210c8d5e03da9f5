"""What the example prints and writes at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from stillhouse.types import CompileJob, Cost, Pair

ROLES = {
    "baseline": "student as it is",
    "baseline_constrained": "student, answers constrained",
    "teacher": "teacher",
    "compiled": "student, compiled",
}
REFERENCES = {"majority_class": "majority class", "tfidf": "TF-IDF, logistic regression"}
OWN_TEACHER = (
    "It shows the whole pipeline at work: a small model, shown demos and held to the allowed answers, was its own teacher, and learned "
    "from those of its sampled answers that the metric found right."
)
OTHER_TEACHER = "It shows the whole pipeline at work: a small model learned from the answers of another one that the metric found right."
NOT_SHOWN = (
    "It does not show that so small a model is a good choice for this task, nor that the teacher knew the answers: "
    "the metric looks at gold labels, and they are the source of what was learned."
)


def build_report(job: CompileJob, setup_seconds: float, total_seconds: float, seed: int) -> dict[str, Any]:
    """The figures of one run, as they stand in `demo-report.json`."""
    evaluation = job.evaluation or {}
    roles = {role: _role(evaluation[role], evaluation) for role in ROLES if role in evaluation}
    delta = evaluation.get("delta") or {}
    return {
        **roles,
        "references": {name: _reference(found) for name, found in (evaluation.get("references") or {}).items()},
        "delta": {key: delta.get(key) for key in ("against", "value", "low", "high")},
        "seconds": {"setup": round(setup_seconds, 1), **_step_seconds(job), "total": round(total_seconds, 1)},
        "teacher_calls": teacher_calls(job),
        "lm_calls": lm_calls(job),
        "seed": seed,
        "artifact": job.artifact.id if job.artifact else None,
    }


def teacher_calls(job: CompileJob) -> int:
    """LM calls that the teacher made in this job; answers found in the trace store are not calls."""
    return sum(_count(job, step, "teacher_calls") for step in ("bootstrap", "evaluate"))


def lm_calls(job: CompileJob) -> int:
    """All LM calls of this job, those of the student's evaluation too."""
    return sum(_count(job, step, "calls") for step in ("bootstrap", "evaluate"))


def results_table(report: dict[str, Any], teacher: str) -> Table:
    """Return one line a role or reference: score with its 95 % interval, n, undecided examples, parse failures, and the mean tokens of
    a call, prompt and answer. `teacher` says who taught."""
    table = Table(title="Held-out questions, each asked once")
    for name in ("program", "correct", "95 % interval", "n", "undecided", "parse failures", "tokens a call"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for role, label in ROLES.items():
        if role in report:
            row = report[role]
            interval = f"{row['low']:.1%} to {row['high']:.1%}"
            shown = f"{label} ({teacher})" if role == "teacher" else label
            table.add_row(shown, f"{row['score']:.1%}", interval, *_counts(row))
    for name, row in report["references"].items():
        table.add_row(REFERENCES[name], f"{row['score']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", *_counts(row))
    return table


def _counts(row: dict[str, Any]) -> list[str]:
    counts = [str(row.get(name, "–")) for name in ("n", "undecided", "parse_failures")]
    tokens = row.get("prompt_tokens")
    return [*counts, "–" if tokens is None else f"{tokens:.0f} + {row['completion_tokens']:.0f}"]


def seconds_table(report: dict[str, Any]) -> Table:
    """Where the time went: `evaluate` is what was left of it after training."""
    table = Table(title="Seconds")
    for name in report["seconds"]:
        table.add_column(name, justify="right")
    table.add_row(*(f"{seconds:.0f}" for seconds in report["seconds"].values()))
    return table


def delta_line(report: dict[str, Any]) -> str:
    """The difference that the gate looks at, in one line."""
    delta = report["delta"]
    if delta.get("value") is None:
        return "No difference could be computed."
    against = ROLES.get(delta["against"], delta["against"])
    line = f"compiled minus {against}: {delta['value']:+.1%} (95 % interval {delta['low']:+.1%} to {delta['high']:+.1%})"
    not_beaten = [REFERENCES[name] for name, row in report["references"].items() if row["verdict"] != "better"]
    return line + (f"\nThe compiled program is not better than {' or '.join(not_beaten)}." if not_beaten else "")


def cost_line(cost: Cost) -> str:
    """Return what all calls of the job took, with their price where models have one."""
    price = "none, as the models run here" if cost.total_usd is None else f"{cost.total_usd:.4f} USD"
    asked = f"{cost.prompt_tokens:,} prompt tokens ({cost.cached_tokens:,} from the cache)"
    return f"All calls took {asked} and {cost.completion_tokens:,} tokens of answers. Price: {price}."


def change_lines(fixes: Sequence[Pair], regressions: Sequence[Pair]) -> list[str]:
    """Return a line each for one held-out question that compiling fixed and one that it broke."""
    pairs = [("Fixed", fixes), ("Broken", regressions)]
    return [f"{title}: {_change(found[0])}" if found else f"{title}: none." for title, found in pairs]


def _change(pair: Pair) -> str:
    before, after = (_category(side) for side in (pair.against, pair.compiled))
    return f"{pair.data['question']} ({pair.data['category']}): {pair.against['role']} said {before}, compiled {after}."


def _category(answer: Mapping[str, Any]) -> str:
    return str((answer.get("outputs") or {}).get("category", "nothing that can be read"))


def _reference(row: dict[str, Any]) -> dict[str, Any]:
    return {**{key: row[key] for key in ("score", "n", "low", "high")}, "verdict": row["delta"]["verdict"]}


def _role(row: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    return {
        "n": evaluation.get("n"),
        **{key: row[key] for key in ("score", "n", "undecided", "low", "high", "parse_failures") if key in row},
        **{key: tokens for key, tokens in (row.get("per_call") or {}).items() if key != "usd"},
    }


def _step_seconds(job: CompileJob) -> dict[str, float]:
    """Evaluation of student and teacher runs beside bootstrap; what is left of it after training is counted here."""
    steps = {step.name: step for step in job.steps}
    bootstrap, train, evaluate = (steps.get(name) for name in ("bootstrap", "train", "evaluate"))
    return {
        "bootstrap": float(_span(bootstrap.started_at, bootstrap.finished_at)) if bootstrap else 0.0,
        "train": float(_span(train.started_at, train.finished_at)) if train else 0.0,
        "evaluate": float(_span(train.finished_at, evaluate.finished_at)) if train and evaluate else 0.0,
    }


def _span(started: int | None, finished: int | None) -> int:
    return finished - started if started is not None and finished is not None else 0


def _count(job: CompileJob, step: str, name: str) -> int:
    return sum(int(found.counts.get(name, 0)) for found in job.steps if found.name == step)
