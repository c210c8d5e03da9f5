"""`dspy.BetterTogether` as it is, on a model that trains in seconds: without a valset, and with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

import stillhouse
from stillhouse import Stillhouse
from tests.e2e.lessons import CATEGORY, rows
from tests.e2e.together import PROMPTS_FIRST, WEIGHTS_FIRST, answer_of_tuned, assert_ran, better_together, find_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Support(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict("message -> category")

    def forward(self, message: str) -> Any:
        category = self.classify(message=message).category
        return dspy.Prediction(category=category.strip() or "nothing")


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.category == prediction.category)


def examples(count: int, start: int = 0) -> list[Any]:
    return [dspy.Example(row).with_inputs("message") for row in rows(count, start)]


def of(model: str) -> Support:
    program = Support()
    program.set_lm(stillhouse.LM(model, temperature=0.0, max_tokens=40))
    return program


@pytest.mark.parametrize(("strategy", "held_out"), [(PROMPTS_FIRST, 0), (WEIGHTS_FIRST, 4)])
def test_runs_to_its_end(
    client: Stillhouse, base_model: str, strategy: str, held_out: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_server(client, monkeypatch, str(tmp_path / "cache"))
    student = of(f"house/{base_model}")
    with dspy.context(lm=student.classify.lm):  # dspy's optimizer of prompts tries programs without LMs of their own
        compiled = better_together(right, {"n_epochs": 40, "learning_rate": 0.01, "batch_size": 8}).compile(
            student,
            trainset=examples(8, start=10 * held_out),
            valset=examples(held_out, start=100),
            strategy=strategy,
            optimizer_compile_args={"w": {"teacher": of("teacher/big")}},
            num_threads=1,
            seed=0,
        )
    scores = assert_ran(client, compiled, strategy)
    if held_out:  # otherwise the last program is taken, whose demos came after the training
        assert scores[strategy] >= scores[""]
        assert answer_of_tuned(compiled, compiled.classify.lm, message="Message 101").category == CATEGORY
