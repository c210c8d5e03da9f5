"""Whose call it was, for every shape a program may have: the trace names each predictor's calls, and no others."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from stillhouse_programs.collect import prepare_program
from stillhouse_programs.prompts import make_prompt_adapter
from tests.support.scripted_lm import Answer, Ask
from tests.unit.runner.support import Json, ScriptedRelay, Steps, called, prepared, rollout


class Program(dspy.Module):
    """A program whose `forward` is given: `Program(body, a=Predict(…), …)`."""

    def __init__(self, body: Any, **predictors: Any) -> None:
        super().__init__()
        self.body = body
        for name, predictor in predictors.items():
            setattr(self, name, predictor)

    def forward(self, **inputs: Any) -> Any:
        return self.body(self, **inputs)


def say(ask: Ask) -> dict[str, str]:
    """Every output repeats the question, so that a call's answer tells which call it was."""
    return {name: f"{name} of {ask.inputs['q']}" for name in ask.outputs}


def run(program: dspy.Module, answer: Any = say, q: str = "x") -> Json:
    trace = rollout(prepared(program, ScriptedRelay(answer)), q=q)
    assert trace["status"] == "ok", trace["error"]
    return trace


def pairs(trace: Json) -> list[tuple[str, str]]:
    return sorted((call["predictor"], call["inputs"]["q"]) for call in trace["calls"])


class TestNamesOfCalls:
    """The relay answers a call that was made and paid before by its reply, so a name says which call it is, and of no other."""

    @staticmethod
    def names(seed: int | None, program: dspy.Module) -> list[str]:
        relay = ScriptedRelay(say)
        rollout(prepared(program, relay), seed=seed, q="x")
        return relay.names

    @staticmethod
    def program() -> dspy.Module:
        async def body(self: Any, q: str) -> dspy.Prediction:
            for _ in range(2):
                await self.act.acall(q=q)
            await dspy.Predict("q -> foreign").acall(q=q)
            await self.several.acall(q=q)
            return await self.answer.acall(q=q)

        return Steps(body, act=dspy.Predict("q -> a"), several=dspy.Predict("q -> a", n=2), answer=dspy.Predict("q -> answer"))

    def test_are_the_same_when_a_rollout_is_run_again(self) -> None:
        assert self.names(7, self.program()) == self.names(7, self.program())

    def test_are_other_ones_for_every_call_of_it_and_in_another_rollout(self) -> None:
        """Also where a predictor asks the same twice, or for two answers at once: each is a sample of its own."""
        one, two = self.names(7, self.program()), self.names(8, self.program())
        assert len({*one, *two}) == len(one) + len(two) == 12
        assert {name.partition("/")[0] for name in one} == {"7"}

    def test_hold_for_calls_in_threads_too(self) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            self.act(q=q)
            return self.act(q=q)

        assert self.names(7, Program(body, act=dspy.Predict("q -> a"))) == ["7/act.7.1", "7/act.8.1"]

    def test_are_not_given_without_a_seed(self) -> None:
        assert set(self.names(None, self.program())) == {""}


class TestControlFlow:
    def test_loop(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            for step in ("1", "2"):
                await self.act.acall(q=q, step=step)
            return await self.answer.acall(q=q)

        trace = run(Steps(body, act=dspy.Predict("q, step -> act"), answer=dspy.ChainOfThought("q -> answer")))
        assert called(trace) == ["act", "act", "answer.predict"]
        assert [call["inputs"] for call in trace["calls"]] == [{"q": "x", "step": "1"}, {"q": "x", "step": "2"}, {"q": "x"}]
        assert trace["outputs"] == {"reasoning": "reasoning of x", "answer": "answer of x"}

    @pytest.mark.parametrize(("q", "expected"), [("plan it", ["plan", "answer"]), ("no", ["answer"])])
    def test_conditional_call(self, q: str, expected: list[str]) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            if "plan" in q:
                self.plan(q=q)
            return self.answer(q=q)

        assert called(run(Program(body, plan=dspy.Predict("q -> a"), answer=dspy.Predict("q -> a")), q=q)) == expected

    def test_one_predictor_used_twice_and_under_two_names(self) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            self.second(q=self.first(q=q).a)
            return self.first(q="again")

        shared = dspy.Predict("q -> a")
        trace = run(Program(body, first=shared, second=shared))
        assert pairs(trace) == [("first", "a of x"), ("first", "again"), ("first", "x")]

    def test_two_predictors_with_one_signature(self) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            self.two(q="for two")
            return self.one(q="for one")

        class Ask(dspy.Signature):
            """Answer."""

            q: str = dspy.InputField()
            a: str = dspy.OutputField()

        assert pairs(run(Program(body, one=dspy.Predict(Ask), two=dspy.Predict(Ask)))) == [("one", "for one"), ("two", "for two")]

    def test_lists_dicts_and_nested_modules(self) -> None:
        def inner(self: Any, q: str) -> dspy.Prediction:
            return self.last(q=q)

        def body(self: Any, q: str) -> dspy.Prediction:
            for hop in (self.hops[1], self.by["en"], self.inner, self.hops[0], self.by["de"].inner):
                hop(q=q)
            return self.hops[0](q="end")

        program = Program(
            body,
            hops=[dspy.Predict("q -> a"), dspy.ChainOfThought("q -> a")],
            by={"en": dspy.Predict("q -> a"), "de": Program(body, inner=Program(inner, last=dspy.Predict("q -> a")))},
            inner=Program(inner, last=dspy.Predict("q -> a")),
        )
        names = ["hops[1].predict", "by['en']", "inner.last", "hops[0]", "by['de'].inner.last", "hops[0]"]
        assert called(run(program)) == names

    def test_forward_called_by_its_name(self) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            self.chain.forward(q="chain")
            return self.answer.forward(q=q)

        trace = run(Program(body, answer=dspy.Predict("q -> a"), chain=dspy.ChainOfThought("q -> a")))
        assert (called(trace), trace["foreign_calls"]) == (["chain.predict", "answer"], 0)

    def test_copy_made_inside_forward(self) -> None:
        def body(self: Any, q: str) -> dspy.Prediction:
            return self.deepcopy().answer(q=q)

        assert called(run(Program(body, answer=dspy.Predict("q -> a")))) == ["answer"]


class TestModulesOfDspy:
    def test_react_rows_go_to_the_predictor_that_was_asked(self) -> None:
        def look_up(word: str) -> str:
            """Look a word up."""
            return f"{word} is a fruit"

        def answer(ask: Ask) -> Answer:
            if "next_tool_name" not in ask.outputs:
                return {"reasoning": "It says so.", "a": "fruit"}
            name = "finish" if "is a fruit" in ask.text else "look_up"
            arguments = {} if name == "finish" else {"word": "fig"}
            return {"next_thought": "Look.", "next_tool_name": name, "next_tool_args": arguments}

        trace = run(dspy.ReAct("q -> a", tools=[look_up]), answer)
        assert called(trace) == ["react", "react", "extract.predict"]
        assert [call["outputs"].get("next_tool_name") for call in trace["calls"]] == ["look_up", "finish", None]
        assert trace["outputs"]["a"] == "fruit"
        assert [call["overrides"] for call in trace["calls"]] == [[], [], []]

    def test_best_of_n_whose_copies_keep_their_names(self) -> None:
        best = dspy.BestOfN(dspy.ChainOfThought("q -> a"), N=3, reward_fn=lambda args, pred: float(pred.a == "good"), threshold=1.0)
        relay = ScriptedRelay(lambda ask: {"reasoning": "r", "a": "good" if ask.n == 2 else "bad"})
        trace = rollout(prepared(best, relay), seed=7, q="x")
        assert called(trace) == ["module.predict"] * 3
        assert trace["outputs"]["a"] == "good"
        assert len({body["seed"] for body in relay.bodies}) == 3, "three equal prompts want three samples"
        assert [call.get("discarded", False) for call in trace["calls"]] == [True, True, False]

    def test_refine_asks_its_own_helper_and_marks_the_calls_with_its_hint(self) -> None:
        def answer(ask: Ask) -> Answer:
            if "advice" in ask.outputs:
                return {"discussion": "d", "advice": {"predict": "say good"}}
            return {"reasoning": "r", "a": "good" if "say good" in ask.text else "bad"}

        refined = dspy.Refine(dspy.ChainOfThought("q -> a"), N=3, reward_fn=is_good, threshold=1.0)
        trace = run(refined, answer)
        assert called(trace) == ["module.predict"] * 2
        assert [call["overrides"] for call in trace["calls"]] == [[], ["prompt_adapter"]]
        assert [call.get("discarded", False) for call in trace["calls"]] == [True, False]
        assert (trace["outputs"]["a"], trace["foreign_calls"], trace["usage"]["calls"]) == ("good", 1, 3)

    def test_predictors_that_are_not_the_programs_are_dropped_and_counted(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            await dspy.Predict("q -> hint").acall(q=q)
            return await self.answer.acall(q=q)

        trace = run(Steps(body, answer=dspy.Predict("q -> a")))
        assert called(trace) == ["answer"]
        assert (trace["foreign_calls"], trace["usage"]["calls"]) == (1, 2)
        assert trace["usage"]["lms"] == {"student": {name: trace["usage"][name] for name in trace["usage"] if name != "lms"}}


def is_good(args: Any, pred: Any) -> float:
    return float(pred.a == "good")


def ask_both(self: Any, run_all: Any) -> dspy.Prediction:
    """The same predictors from several threads at once, each call with a question of its own."""
    run_all([lambda at=at: (self.one if at % 2 else self.two)(q=f"q{at}") for at in range(6)])
    return self.one(q="end")


EXPECTED = sorted([("one", "end")] + [("one" if at % 2 else "two", f"q{at}") for at in range(6)])


def in_raw_threads(calls: list[Any]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_a_pool(calls: list[Any]) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda call: call(), calls))


POOL = ThreadPoolExecutor(2)


def in_a_pool_that_was_there_before(calls: list[Any]) -> None:
    list(POOL.map(lambda call: call(), calls))


def in_dspy_parallel(calls: list[Any]) -> None:
    class One(dspy.Module):
        def forward(self, call: Any) -> Any:
            return call()

    dspy.Parallel(num_threads=3, disable_progress_bar=True)([(One(), {"call": call}) for call in calls])


class TestThreads:
    @pytest.mark.parametrize("run_all", [in_raw_threads, in_a_pool, in_a_pool_that_was_there_before, in_dspy_parallel])
    def test_calls_from_threads_belong_to_the_rollout(self, run_all: Any) -> None:
        program = Program(lambda self, q: ask_both(self, run_all), one=dspy.Predict("q -> a"), two=dspy.Predict("q -> a"))
        trace = run(program)
        assert pairs(trace) == EXPECTED
        assert all(call["outputs"] == {"a": f"a of {call['inputs']['q']}"} for call in trace["calls"])
        assert trace["usage"]["calls"] == 7

    def test_rollouts_that_share_a_pool_keep_their_calls_apart(self) -> None:
        program = Program(lambda self, q: (list(POOL.map(lambda n: self.one(q=f"{q}{n}"), range(4))), self.one(q=q))[1])
        program.one = dspy.Predict("q -> a")
        ready = prepared(program, ScriptedRelay(say))
        with ThreadPoolExecutor(4) as threads:
            traces = list(threads.map(lambda q: rollout(ready, q=q), "abcd"))
        for q, trace in zip("abcd", traces, strict=True):
            assert pairs(trace) == sorted([("one", q)] + [("one", f"{q}{n}") for n in range(4)])

    def test_asyncio_thread_and_tasks(self) -> None:
        async def body(self: Any, q: str) -> dspy.Prediction:
            await asyncio.gather(self.one.acall(q="task"), asyncio.to_thread(self.two, q="thread"))
            return await self.one.acall(q=q)

        trace = run(Steps(body, one=dspy.Predict("q -> a"), two=dspy.Predict("q -> a")))
        assert pairs(trace) == [("one", "task"), ("one", "x"), ("two", "thread")]

    def test_program_that_is_async_only(self) -> None:
        class Inner(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict("q -> a")

            async def aforward(self, q: str) -> Any:
                return await self.answer.acall(q=q)

        async def body(self: Any, q: str) -> Any:
            return await self.inner.acall(q=q)

        assert called(run(Steps(body, inner=Inner()))) == ["inner.answer"]

    def test_event_loop_of_the_programs_own(self) -> None:
        def body(self: Any, q: str) -> Any:
            return asyncio.run(self.answer.acall(q=q))

        assert called(run(Program(body, answer=dspy.Predict("q -> a")))) == ["answer"]

    def test_thread_that_outlives_its_rollout_asks_no_lm_any_more(self) -> None:
        over = threading.Event()
        left: list[Any] = []

        def linger(predictor: Any) -> None:
            over.wait(60)
            try:
                predictor(q="late")
            except BaseException as fault:
                left.append(fault)

        def body(self: Any, q: str) -> Any:
            left.append(threading.Thread(target=linger, args=(self.answer,)))
            left[0].start()
            return self.answer(q=q)

        relay = ScriptedRelay(say)
        trace = rollout(prepared(Program(body, answer=dspy.Predict("q -> a")), relay), q="x")
        over.set()
        left[0].join()
        assert (called(trace), len(relay.bodies)) == (["answer"], 1)
        assert str(left[1]) == "the rollout that this call belongs to is over"

    def test_thread_that_no_rollout_started_is_told_so(self) -> None:
        program = dspy.Predict("q -> a")
        program.set_lm(ScriptedRelay().lm())
        prepare_program(program, make_prompt_adapter("chat"))
        with pytest.raises(dspy.LMUnexpectedError, match="outside of a rollout"):
            program(q="x")
