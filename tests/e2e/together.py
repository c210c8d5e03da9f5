"""`dspy.BetterTogether` as upstream's tutorials use it, with `stillhouse.BootstrapFinetune` for the weights."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import stillhouse
from stillhouse import Stillhouse

PROMPTS_FIRST, WEIGHTS_FIRST = "p -> w -> p", "w -> p -> w"


def find_server(client: Stillhouse, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """Name the server by two variables, as users do."""
    monkeypatch.setenv("STILLHOUSE_BASE_URL", client.base_url)
    monkeypatch.setenv("STILLHOUSE_API_KEY", client.api_key)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)


def better_together(metric: Any, train_kwargs: dict[str, Any]) -> Any:
    prompts = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=1,
        max_labeled_demos=2,
        num_candidate_programs=1,
        num_threads=1,
        max_errors=1000,  # an untrained model's answers often cannot be parsed
    )
    return dspy.BetterTogether(metric=metric, p=prompts, w=stillhouse.BootstrapFinetune(metric=metric, train_kwargs=train_kwargs))


def assert_ran(client: Stillhouse, compiled: Any, strategy: str) -> dict[str, float]:
    """Check that every step ran and that the second training went on from the first; return the scores by the steps before them."""
    assert not compiled.flag_compilation_error_occurred
    steps = strategy.split(" -> ")
    scores: dict[str, float] = {candidate["strategy"]: candidate["score"] for candidate in compiled.candidate_programs}
    assert set(scores) == {" -> ".join(steps[:count]) for count in range(len(steps) + 1)}
    count = steps.count("w")
    jobs = list(client.compile_jobs.list(limit=count))[:count]
    messages = [[event.message for event in client.compile_jobs.events.list(job.id, limit=100)] for job in reversed(jobs)]
    continued = [any("starts from the LoRA weights of sh-" in message for message in each) for each in messages]
    assert continued == [False, True][:count]
    return scores


def answer_of_tuned(program: Any, lm: Any, **inputs: str) -> Any:
    """Ask the program, and check that the answer came from a fine-tuned model."""
    assert lm.model.startswith("tune/sh-")
    before = len(lm.history)
    answer = program(**inputs)
    assert len(lm.history) > before
    return answer
