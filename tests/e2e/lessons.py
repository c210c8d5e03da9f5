"""What the tiny model is to learn: two predictors, each with one thing to say, whatever it is asked."""

from typing import Any

from tests.support.scripted_lm import Answer, Ask

CATEGORY, ANSWER = "billing", "We will help you today."


def teach(ask: Ask) -> Answer:
    return {"category": CATEGORY} if "category" in ask.outputs else {"answer": ANSWER}


def _field(name: str, role: str) -> dict[str, Any]:
    return {"name": name, "role": role}


PROGRAM: dict[str, Any] = {
    "predictors": [
        {
            "name": "classify",
            "lm": "sorter",
            "signature": {"instructions": "Route a message.", "fields": [_field("message", "input"), _field("category", "output")]},
        },
        {
            "name": "reply",
            "lm": "writer",
            "signature": {
                "instructions": "Answer it.",
                "fields": [_field("message", "input"), _field("category", "input"), _field("answer", "output")],
            },
        },
    ],
    "steps": [
        {"id": "c", "predictor": "classify", "args": {"message": {"from": "input.message"}}},
        {"id": "r", "predictor": "reply", "args": {"message": {"from": "input.message"}, "category": {"from": "c.category"}}},
    ],
    "outputs": {"category": {"from": "c.category"}, "answer": {"from": "r.answer"}},
}


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"message": f"Message {i}", "category": CATEGORY, "answer": ANSWER} for i in range(start, start + n)]


TRAINING: dict[str, Any] = {"n_epochs": 20, "learning_rate": 0.01, "batch_size": 8}
LMS: dict[str, Any] = {
    "sorter": {"temperature": 0, "max_tokens": 40, "train_options": {**TRAINING, "lora_r": 16}},
    "writer": {"temperature": 0, "max_tokens": 40, "train_options": {**TRAINING, "lora_r": 8}},
}
