"""Another metric is told from the one before it, and the same one is known again: scores are kept by its digest."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.evaluate import SemanticF1

from stillhouse.dropin.programs import own_metric

Metric = Callable[..., Any]


def close(example: Any, prediction: Any, trace: Any = None, *, field: str = "a", tol: float = 0.0) -> bool:
    return bool(abs(example[field] - prediction[field]) <= tol)


def far(example: Any, prediction: Any, trace: Any = None, *, field: str = "a", tol: float = 0.0) -> bool:
    return not close(example, prediction, trace, field=field, tol=tol)


class AtLeast:
    def __init__(self, bar: float) -> None:
        self.bar = bar

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.score >= self.bar)

    def below(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return not self(example, prediction, trace)


class Slotted:
    __slots__ = ("bar",)

    def __init__(self, bar: float) -> None:
        self.bar = bar

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.score >= self.bar)


def typed_in(body: str) -> Metric:
    """As at a prompt: there is no source to be read."""
    names: dict[str, Any] = {}
    exec(f"def metric(e, p, trace=None):\n return {body}", names)  # noqa: S102 - what a prompt does
    return names["metric"]  # type: ignore[no-any-return]


def typed_in_class(letters: int) -> Metric:
    """One whose pattern is longer than what its `repr` shows of it."""
    names: dict[str, Any] = {}
    exec(  # noqa: S102 - what a prompt does
        f"import re\nclass Found:\n ours = re.compile('a' * 300 + 'b' * {letters})\n"
        " def __call__(self, e, p, trace=None):\n  return bool(self.ours.match(p.text))",
        names,
    )
    return names["Found"]()  # type: ignore[no-any-return]


def at_least(bar: float) -> Metric:
    return lambda example, prediction, trace=None: prediction.score >= bar


def drawn_by(seed: int) -> Metric:
    """What it draws from has a state that none of its attributes shows."""
    draws = random.Random(seed)
    return lambda example, prediction, trace=None: prediction.score >= draws.random()


def judged_by(model: str) -> Metric:
    judge = dspy.Predict("question, answer -> fair: bool")
    judge.set_lm(dspy.LM(model, api_key="k"))
    return lambda example, prediction, trace=None: judge(question=example.q, answer=prediction.a).fair


def source(metric: Metric) -> str:
    return str(own_metric(metric, [])["source"])


METRICS: dict[str, Callable[[], Metric]] = {
    "function": lambda: close,
    "partial": lambda: functools.partial(close, field="a", tol=0.1),
    "other field": lambda: functools.partial(close, field="b", tol=0.1),
    "other function": lambda: functools.partial(far, field="a", tol=0.1),
    "object": lambda: AtLeast(0.1),
    "other bar": lambda: AtLeast(0.9),
    "method": lambda: AtLeast(0.1).below,
    "other method": lambda: AtLeast(0.9).below,
    "slots": lambda: Slotted(0.1),
    "other slots": lambda: Slotted(0.9),
    "module": lambda: SemanticF1(threshold=0.3),
    "other threshold": lambda: SemanticF1(threshold=0.9),
    "other signature": lambda: SemanticF1(threshold=0.3, decompositional=True),
    "typed": lambda: typed_in("e.team == p.team"),
    "typed otherwise": lambda: typed_in("e.answer == p.answer"),
    "typed with a lambda": lambda: typed_in("any(map(lambda x: x == e.team, p))"),
    "typed with another": lambda: typed_in("any(map(lambda x: x != e.team, p))"),
    "typed in a class": lambda: typed_in_class(1),
    "typed in a class with another pattern": lambda: typed_in_class(2),
    "closure": lambda: at_least(0.1),
    "other closure": lambda: at_least(0.9),
    "draws": lambda: drawn_by(1),
    "other draws": lambda: drawn_by(2),
    "judge": lambda: judged_by("openai/big"),
    "other judge": lambda: judged_by("openai/small"),
}


def test_each_has_a_digest_of_its_own() -> None:
    first, second = ({name: source(made()) for name, made in METRICS.items()} for _ in range(2))
    assert len(set(first.values())) == len(METRICS)
    assert first == second, "and the same one every time"


def test_what_cannot_be_told_apart_is_another_each_time() -> None:
    lock: Any = threading.Lock()
    for metric, name in ((functools.partial(close, tol=lock), "tol"), (AtLeast(lock), "bar"), (at_least(lock), "bar")):
        with pytest.warns(UserWarning, match=f"metric: its {name} cannot be told from another: each call makes a job of its own"):
            assert source(metric) != source(metric)


def test_a_function_that_holds_itself() -> None:
    def metric(example: Any, prediction: Any, trace: Any = None, depth: int = 0) -> bool:
        return depth > 3 or metric(example, prediction, trace, depth + 1)

    assert source(metric) == source(metric)
