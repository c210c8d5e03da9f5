"""The program of the example: one `Predict` with a `Literal` output, as a program spec."""

from typing import Any

from examples.trec.data import CATEGORIES, Row

INSTRUCTIONS = "Classify the question by the kind of answer it asks for."


def student_spec() -> dict[str, Any]:
    """The bare predictor: no demos, the stock chat prompt adapter."""
    return {
        "spec_version": 1,
        "predictors": [
            {
                "name": "self",
                "lm": "student",
                "signature": {
                    "instructions": INSTRUCTIONS,
                    "fields": [
                        {"name": "question", "role": "input"},
                        {"name": "category", "role": "output", "schema": {"type": "string", "enum": sorted(CATEGORIES.values())}},
                    ],
                },
            }
        ],
        "prompt_adapter": {"type": "chat"},
    }


def teacher_spec(demos: list[Row]) -> dict[str, Any]:
    """The same program with demos in its prompt."""
    spec = student_spec()
    spec["predictors"][0]["demos"] = demos
    spec["prompt_adapter"] = {"type": "compact"}
    return spec
