"""Another program that runs here is told from the one before it, and the same one is known again: traces are kept by its digest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from stillhouse.dropin.programs import own_program
from stillhouse_programs.pinning import pin


class Using(dspy.Module):
    """A program that holds what it is given."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.ask(question=question)


class Limited(dspy.Predict):
    def __init__(self, limit: int) -> None:
        super().__init__("question -> answer")
        self.limit = limit


def upper(word: str) -> str:
    return word.upper()


def lower(word: str) -> str:
    return word.lower()


def search(found: str) -> Callable[[str], str]:
    def look_up(words: list[str]) -> str:
        """Look a word up."""
        return found + "".join(words)

    return look_up  # type: ignore[return-value]


def reacting(found: str, max_iters: int = 2) -> Any:
    return dspy.ReAct("question -> answer", tools=[search(found)], max_iters=max_iters)


def best(n: int, reward: Any) -> Any:
    return dspy.BestOfN(dspy.Predict("question -> answer"), N=n, reward_fn=reward, threshold=1.0)


def short(_: Any, prediction: Any) -> float:
    return float(len(prediction.answer) < 9)


def long(_: Any, prediction: Any) -> float:
    return float(len(prediction.answer) > 9)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "agent": lambda: reacting("a"),
    "its tool finds another": lambda: reacting("b"),
    "it may go on for longer": lambda: reacting("a", 20),
    "best of 2": lambda: best(2, short),
    "best of 9": lambda: best(9, short),
    "best by another reward": lambda: best(2, long),
    "tools": lambda: Using([upper]),
    "other tools": lambda: Using([lower]),
    "options": lambda: Using({"k": 1}),
    "other options": lambda: Using({"k": 2}),
    "a part": lambda: Using(Using(1)),
    "a part with another setting": lambda: Using(Using(2)),
    "predictor": lambda: Limited(1),
    "predictor with another limit": lambda: Limited(2),
}


def source(program: Any, lm: str = "openai/big") -> str:
    program.set_lm(dspy.LM(lm, api_key="k"))
    example = dspy.Example(question="q", answer="a").with_inputs("question")
    roles = {name: "student" for name, _ in program.named_predictors()}
    return str(own_program(program, [example], roles)["client"]["source"])


def test_each_has_a_digest_of_its_own() -> None:
    first, second = ({name: source(made()) for name, made in PROGRAMS.items()} for _ in range(2))
    assert len(set(first.values())) == len(PROGRAMS)
    assert first == second, "and the same one every time"


@pytest.mark.parametrize("name", ["agent", "a part", "predictor"])
def test_its_lms_and_its_pin_are_none_of_it(name: str) -> None:
    plain = source(PROGRAMS[name]())
    assert source(PROGRAMS[name](), "house/tiny") == plain
    assert source(pin(PROGRAMS[name](), dspy.JSONAdapter())) == plain
    assert source(PROGRAMS[name]().deepcopy()) == plain


def test_what_cannot_be_told_apart_is_another_each_time() -> None:
    program = Using(threading.Lock())
    with pytest.warns(UserWarning, match="program: its held cannot be told from another: each call makes a job of its own"):
        assert source(program) != source(program)
