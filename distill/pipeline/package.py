"""What an artifact says of itself: its manifest and its README. Nothing in them depends on when or where they were made.

What a metric was given may be a secret, of a judge for one, and is taken out. The program stays as its models were trained on it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.redaction import redact_text, redacted

FORMAT = 1
ROLES = ("baseline", "baseline_constrained", "incumbent", "teacher", "compiled")
REFERENCES = {"majority_class": "majority class", "tfidf": "TF-IDF"}


@dataclass(frozen=True)
class File:
    """A file of the artifact, by content: `sha256` in hex, `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class TunedPredictor:
    """What one predictor runs on. `lora` is the folder of its weights in the artifact, `answer_tokens` the bound of its answers where its
    LM has no `max_tokens`. `train_options` are those that it was trained with, where its trainer has told them."""

    name: str
    lm_role: str
    model: str
    base_model: str
    base_model_digest: str | None
    rows: int
    lora: str | None
    answer_tokens: int | None = None
    train_options: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        names = ("lm_role", "model", "base_model", "base_model_digest", "rows", "lora", "answer_tokens", "train_options")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Facts:
    """All that a manifest tells, besides its files."""

    program_name: str
    job_id: str
    program_digest: str
    prompt_adapter: Mapping[str, Any]
    prompt_hash: str
    prompt_samples: list[Mapping[str, Any]]
    dspy_version: str | None
    predictors: tuple[TunedPredictor, ...]
    lms: Mapping[str, Any]
    teacher: Mapping[str, Any] | None
    data: Mapping[str, Any]
    metric: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    holdout_digests: list[str]
    demos: Mapping[str, Any]


def manifest(facts: Facts, files: Mapping[str, File]) -> dict[str, Any]:
    """The manifest of an artifact: every other file with its hash and size, and where each predictor's model came from."""
    return {
        "format": FORMAT,
        "program_name": facts.program_name,
        "job_id": facts.job_id,
        "program_digest": facts.program_digest,
        "prompt_adapter": dict(facts.prompt_adapter),
        "prompt_hash": facts.prompt_hash,
        "prompt_samples": [dict(sample) for sample in facts.prompt_samples],
        "dspy_version": facts.dspy_version,
        "predictors": {predictor.name: predictor.as_json() for predictor in facts.predictors},
        "lms": dict(facts.lms),
        "teacher": None if facts.teacher is None else dict(facts.teacher),
        "data": dict(facts.data),
        "demos": dict(facts.demos),
        "metric": redacted(facts.metric),
        "evaluation": redacted(facts.evaluation),
        "holdout_digests": facts.holdout_digests,
        "files": {path: {"sha256": files[path].sha256, "size": files[path].size} for path in sorted(files)},
    }


def pretty(value: Any) -> bytes:
    """JSON for people and for hashing: two spaces, keys in their given order, a newline at the end."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def readme(facts: Facts) -> bytes:
    """README.md: what it is, the before/after table, what each predictor runs on, and how to load it."""
    parts = [
        f"# {facts.program_name}",
        f"A compiled DSPy program, made by job `{facts.job_id}`.",
        "## Before and after",
        "\n".join(_scores(facts.evaluation)),
        "## Predictors",
        "\n".join(_predictor_table(facts.predictors)),
        "## Use",
        '```python\nimport stillhouse\n\nprogram = stillhouse.load("path/to/this/folder")  # or the artifact\'s id, art-…\n```',
        "Answers are only as good as the prompt: `load` checks that this dspy renders the prompts the models were trained on.",
    ]
    return (redact_text("\n\n".join(parts)) + "\n").encode()


def _scores(evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    if evaluation is None:
        yield "Nothing was held out, so there is no score, and no verdict is possible. Give a `valset` or ask for a `holdout` to get one."
        return
    yield f"{evaluation['n']} held-out examples, metric `{evaluation['metric']}`, 95 % intervals."
    yield ""
    yield "| program | score | interval | n | undecided | unparsable answers |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for role in ROLES:
        if role in evaluation:
            yield _score_line(role, evaluation[role])
    references = evaluation.get("references") or {}
    for key, name in REFERENCES.items():
        if key in references:
            yield _score_line(name, references[key])
    if evaluation.get("delta"):
        yield ""
        yield _delta_line(evaluation["delta"], references)
    calls = [f"{role} {_call(found)}" for role in ROLES if (found := (evaluation.get(role) or {}).get("per_call"))]
    if calls:
        yield ""
        yield f"Tokens and price of a call: {'; '.join(calls)}."


def _call(found: Mapping[str, Any]) -> str:
    price = "price unknown" if found.get("usd") is None else f"${1000 * found['usd']:.4f} for 1,000"
    return f"{found['prompt_tokens']:g} in, {found['completion_tokens']:g} out, {price}"


def _score_line(role: str, report: Mapping[str, Any]) -> str:
    counts = " | ".join(str(report.get(name, "–")) for name in ("n", "undecided", "parse_failures"))
    if report.get("score") is None:
        return f"| {role} | – | – | {counts} |"
    return f"| {role} | {report['score']:.3f} | {report['low']:.3f} to {report['high']:.3f} | {counts} |"


def _delta_line(delta: Mapping[str, Any], references: Mapping[str, Any]) -> str:
    if delta.get("value") is None:
        return f"Compared with `{delta['against']}`: too few pairs to say."
    span = f"{delta['low']:+.3f} to {delta['high']:+.3f}"
    line = f"Compared with `{delta['against']}`: **{delta['verdict']}**, {delta['value']:+.3f} ({span})."
    not_beaten = [name for key, name in REFERENCES.items() if key in references and references[key]["delta"]["verdict"] != "better"]
    if not_beaten and delta["verdict"] == "better":
        line += f" It is not better than {' or '.join(not_beaten)}."
    return line


def _predictor_table(predictors: Iterable[TunedPredictor]) -> Iterable[str]:
    yield "| predictor | model | base model | training rows | trained with |"
    yield "| --- | --- | --- | --- | --- |"
    for predictor in predictors:
        options = _options(predictor.train_options or {})
        yield f"| `{predictor.name}` | `{predictor.model}` | {predictor.base_model} | {predictor.rows} | {options or '–'} |"


def _options(told: Mapping[str, Any]) -> str:
    """Those that most depends on."""
    named = ((name, told.get(name)) for name in ("n_epochs", "batch_size", "learning_rate", "lora_r"))
    return ", ".join(f"`{name}` {value:g}" for name, value in named if isinstance(value, int | float))
