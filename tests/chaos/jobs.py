"""Small jobs, and the teacher that answers them.

Every example has a message of its own, so what a call was about is known from its text. A row is sure (the teacher's answer is its label:
it is trained on) or odd (it is not). Jobs with the same sure rows train the same, and equal trainings are reused: so most jobs train
nothing, though each calls the teacher for rows of its own.
"""

from __future__ import annotations

from typing import Any

from stillhouse_programs.spec import parse_bundle
from tests.support.bundles import PYTHON
from tests.support.scripted_lm import Answer, Ask

SAID = "billing"
Row = dict[str, str]


def teach(ask: Ask) -> Answer:
    """One answer to everything."""
    return {"category": SAID}


def message_of(body: dict[str, Any]) -> str:
    """What a call was about."""
    text = str(body["messages"][-1]["content"])
    return text.partition("[[ ## message ## ]]\n")[2].partition("\n")[0]


PROGRAM: dict[str, Any] = {
    "predictors": [
        {
            "name": "classify",
            "lm": "student",
            "signature": {
                "instructions": "Route a message.",
                "fields": [{"name": "message", "role": "input"}, {"name": "category", "role": "output"}],
            },
        }
    ],
    "steps": [{"id": "c", "predictor": "classify", "args": {"message": {"from": "input.message"}}}],
    "outputs": {"category": {"from": "c.category"}},
}
BUNDLE: dict[str, Any] = {
    "bundle_version": 1,
    "python": PYTHON,
    "files": {"scoring/__init__.py": "def same(example, prediction, trace=None):\n    return example.category == prediction.category\n"},
}
OWN_METRIC: dict[str, Any] = {"type": "reference", "reference": "scoring:same", "bundle": parse_bundle(BUNDLE).digest}
"""Code of users, which runs in a sandbox. A world has to be given its bundle first."""
UNMEASURED: dict[str, Any] = {"evaluate": {"roles": []}, "holdout": {"n": 0}}
TRAINING: dict[str, Any] = {"n_epochs": 1, "batch_size": 2, "learning_rate": 0.001, "lora_r": 4}


def odd(name: str, n: int, start: int = 0) -> list[Row]:
    return [{"message": f"Odd {name} {i}", "category": "technical"} for i in range(start, start + n)]


def sure(name: str, n: int) -> list[Row]:
    return [{"message": f"Sure {name} {i}", "category": SAID} for i in range(n)]


def anchors(n: int = 2) -> list[Row]:
    """The rows that most jobs are trained on."""
    return sure("anchor", n)


def body(rows: list[Row], **more: Any) -> dict[str, Any]:
    """A request for a job on these rows."""
    return {
        "program": PROGRAM,
        "program_name": "chaos",
        "trainset": rows,
        "metric": {"type": "exact_match", "fields": ["category"]},
        "smoke_test": None,
        "num_threads": 4,
        "train_options": TRAINING,
        **more,
    }


def brief(name: str, n: int = 4, **more: Any) -> dict[str, Any]:
    """A request for a job on the rows that most are trained on and on `n` of its own; nothing is evaluated."""
    return body(anchors() + odd(name, n), **UNMEASURED, **more)
