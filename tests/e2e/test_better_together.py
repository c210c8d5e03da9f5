"""`dspy.BetterTogether` as it is, with `stillhouse.BootstrapFinetune` for the weights: real trainings, and a prompt optimizer of dspy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

import stillhouse
from stillhouse import Stillhouse
from tests.e2e.lessons import CATEGORY, rows

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


@pytest.fixture
def base(client: Stillhouse, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The base model's name. Programs find the server by two variables, as users' do."""
    monkeypatch.setenv("STILLHOUSE_BASE_URL", client.base_url)
    monkeypatch.setenv("STILLHOUSE_API_KEY", client.api_key)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"house/local/{tiny_model.name}"


def trained_from(client: Stillhouse, count: int) -> list[bool]:
    """Of the newest jobs, in the order in which they were made, whether the training started from a fine-tuned model."""
    jobs = list(client.compile_jobs.list(limit=count))[:count]
    told = [[event.message for event in client.compile_jobs.events.list(job.id, limit=100)] for job in reversed(jobs)]
    return [any("starts from the LoRA weights of sh-" in message for message in messages) for messages in told]


@pytest.mark.parametrize(("strategy", "trainings", "held_out"), [("p -> w -> p", [False], 0), ("w -> p -> w", [False, True], 4)])
def test_runs_to_its_end(client: Stillhouse, base: str, strategy: str, trainings: list[bool], held_out: int) -> None:
    prompts = dspy.BootstrapFewShotWithRandomSearch(
        metric=right, max_bootstrapped_demos=1, max_labeled_demos=2, num_candidate_programs=1, num_threads=1
    )
    weights = stillhouse.BootstrapFinetune(metric=right, train_kwargs={"n_epochs": 40, "learning_rate": 0.01, "batch_size": 8})
    both = dspy.BetterTogether(metric=right, p=prompts, w=weights)
    with dspy.context(lm=of(base).classify.lm):  # dspy's optimizer of prompts tries programs without LMs of their own
        compiled = both.compile(
            of(base),
            trainset=examples(8, start=10 * held_out),
            valset=examples(held_out, start=100),
            strategy=strategy,
            optimizer_compile_args={"w": {"teacher": of("teacher/big")}},
            num_threads=1,
            seed=0,
        )
    assert not compiled.flag_compilation_error_occurred
    assert trained_from(client, len(trainings)) == trainings
    steps = strategy.split(" -> ")
    scores = {candidate["strategy"]: candidate["score"] for candidate in compiled.candidate_programs}
    assert set(scores) == {" -> ".join(steps[:count]) for count in range(len(steps) + 1)}
    assert compiled.classify.lm.model.startswith("tune/sh-")
    if held_out:  # otherwise the last program is taken, whose demos came after the training
        assert (scores[""], scores[strategy]) == (0.0, 100.0)
        assert compiled(message="Message 101").category == CATEGORY
