"""Random programs: whatever the wiring, each predictor gets exactly its own calls, and nobody else's."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import dspy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.scripted_lm import Ask
from tests.unit.runner.support import Json, ScriptedRelay, prepared, rollout

SIGNATURES = tuple(dspy.Signature(text) for text in ("q -> a", "q -> b", "q, hint -> a"))

# ------------------------------------------------------------------ what a program is made of: its tree of predictors, and what it does


@dataclass(frozen=True)
class Shape:
    """A module: own predictors by signature, those in a list and in a dict, modules inside it, and pairs that are one and the same."""

    own: tuple[int, ...]
    listed: tuple[int, ...]
    keyed: tuple[int, ...]
    inner: tuple[Shape, ...] = ()
    alias: bool = False


shapes = st.recursive(
    st.builds(Shape, *[st.tuples(st.integers(0, 2)) | st.tuples(st.integers(0, 2), st.integers(0, 2))] * 3, alias=st.booleans()),
    lambda inner: st.builds(
        Shape,
        st.tuples(st.integers(0, 2)),
        st.just(()),
        st.tuples(st.integers(0, 2)),
        st.tuples(inner) | st.tuples(inner, inner),
        st.booleans(),
    ),
    max_leaves=4,
)

# Steps name a predictor by a number, taken modulo how many there are.
calls = st.tuples(st.just("call"), st.integers(0, 30))
plans = st.recursive(
    calls | st.tuples(st.just("foreign"), st.integers(0, 2)),
    lambda inner: (
        st.tuples(st.just("loop"), st.integers(0, 3), st.lists(inner, max_size=3))
        | st.tuples(st.just("branch"), st.lists(inner, max_size=3), st.lists(inner, max_size=3))
        | st.tuples(st.sampled_from(["threads", "pool", "parallel", "copy"]), st.lists(inner, max_size=3))
    ),
    max_leaves=10,
)


class Built(dspy.Module):
    """One module of the tree."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        for at, kind in enumerate(shape.own):
            setattr(self, f"own{at}", make(kind))
        if shape.alias and shape.own:
            self.zz_alias = self.own0
        self.listed = [make(kind) for kind in shape.listed]
        self.keyed = {f"k{at}": make(kind) for at, kind in enumerate(shape.keyed)}
        for at, inner in enumerate(shape.inner):
            setattr(self, f"inner{at}", Built(inner))


def make(kind: int) -> dspy.Module:
    """Some as dspy.Predict, some wrapped."""
    return dspy.ChainOfThought(SIGNATURES[kind]) if kind == 1 else dspy.Predict(SIGNATURES[kind])


@dataclass
class Expected:
    """Filled in by the program itself, call by call."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    foreign: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def question(self) -> str:
        return f"question {next(self.numbers)}"


class Running(Built):
    """The root: runs a plan, and writes down what it expects of the trace."""

    def __init__(self, shape: Shape, plan: list[Any], expected: Expected) -> None:
        super().__init__(shape)
        self.plan, self.expected = plan, [expected]

    def __deepcopy__(self, memo: dict[int, Any]) -> Running:
        raise TypeError("dspy copies attribute by attribute instead")

    def forward(self, q: str) -> dspy.Prediction:
        self.steps(self, self.plan)
        return dspy.Prediction(done="yes")

    def steps(self, program: dspy.Module, plan: list[Any]) -> None:
        for step in plan:
            getattr(self, f"_{step[0]}")(program, *step[1:])

    def _call(self, program: dspy.Module, number: int) -> None:
        found = program.named_predictors()
        name, predictor = found[number % len(found)]
        question = self.expected[0].question()
        # A copy made attribute by attribute has two predictors where the program has one: both are that one.
        self.expected[0].calls.append((name.replace("zz_alias", "own0"), question))
        extra = {"hint": "h"} if "hint" in predictor.signature.input_fields else {}
        answer = predictor(q=question, **extra)
        assert question in next(iter(answer.values())), "the answer belongs to this very call"

    def _foreign(self, program: dspy.Module, kind: int) -> None:
        self.expected[0].foreign += 1
        dspy.Predict("q -> a")(q=self.expected[0].question())

    def _loop(self, program: dspy.Module, times: int, body: list[Any]) -> None:
        for _ in range(times):
            self.steps(program, body)

    def _branch(self, program: dspy.Module, yes: list[Any], no: list[Any]) -> None:
        self.steps(program, yes if len(self.expected[0].calls) % 2 else no)

    def _copy(self, program: dspy.Module, body: list[Any]) -> None:
        copied = Built.deepcopy(program) if program is not self else dspy.Module.deepcopy(self)
        self.steps(copied, body)

    def _threads(self, program: dspy.Module, body: list[Any]) -> None:
        threads = [threading.Thread(target=self.steps, args=(program, [step])) for step in body]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _pool(self, program: dspy.Module, body: list[Any]) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda step: self.steps(program, [step]), body))

    def _parallel(self, program: dspy.Module, body: list[Any]) -> None:
        pairs: list[tuple[dspy.Module, Json]] = [(Thunk(functools.partial(self.steps, program, [step])), {}) for step in body]
        if pairs:
            dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)


class Thunk(dspy.Module):
    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work

    def forward(self) -> dspy.Prediction:
        self.work()
        return dspy.Prediction()


def say(ask: Ask) -> dict[str, str]:
    return {name: f"{name} to {ask.inputs.get('q', '?')}" for name in ask.outputs}


class TestAnyProgram:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(shape=shapes, plan=st.lists(plans, min_size=1, max_size=4))
    def test_each_predictor_gets_exactly_its_own_calls(self, shape: Shape, plan: list[Any]) -> None:
        expected = Expected()
        program = Running(shape, plan, expected)
        trace: Json = rollout(prepared(program, ScriptedRelay(say)), limit=None, q="x")
        assert trace["status"] == "ok", trace["error"]
        assert sorted((call["predictor"], call["inputs"]["q"]) for call in trace["calls"]) == sorted(expected.calls)
        assert trace["foreign_calls"] == expected.foreign
        assert trace["usage"]["calls"] == len(expected.calls) + expected.foreign
        for call in trace["calls"]:
            assert all(value.endswith(call["inputs"]["q"]) for value in call["outputs"].values())
            assert (call["overrides"], call.get("discarded")) == ([], None)
