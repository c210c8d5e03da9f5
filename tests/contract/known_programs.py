"""Programs that show what upstream does to training rows, and the LMs that answer them."""

import threading
from collections.abc import Callable
from typing import Any, Literal

import dspy

from tests.contract.rows_twice import say
from tests.support.scripted_lm import Answer, Answerer, Ask


class Typed(dspy.Signature):
    """Extract."""

    q: str = dspy.InputField()
    l_parts: list[str] = dspy.OutputField()
    c_tone: Literal["yes", "no"] = dspy.OutputField()


class Thinks(dspy.Signature):
    q: str = dspy.InputField()
    reasoning: dspy.Reasoning = dspy.OutputField()
    answer: str = dspy.OutputField()


class Reasoner(dspy.LM):
    """An LM that reasons beside its text."""

    supports_reasoning = True


class Two(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("q -> draft")
        self.answer = dspy.Predict("q, draft -> answer")

    def forward(self, q: str) -> Any:
        return self.answer(q=q, draft=self.draft(q=q).draft)


class Native(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft, self.final = dspy.ChainOfThought("q -> draft"), dspy.Predict("q, draft -> answer", temperature=0.2)

    def forward(self, q: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.final(q=q, draft=self.draft(q=q).draft).answer)


class Tree(dspy.Module):
    """Predictors in a module, in a list, in a dict, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.cot = dspy.ChainOfThought("q -> a")
        self.inner = Two()
        self.hops = [dspy.Predict("q -> a"), dspy.Predict("q -> a")]
        self.by = {"en": dspy.Predict("q -> a")}
        self.alias = self.cot

    def forward(self, q: str) -> dspy.Prediction:
        said = [self.cot(q=f"{q} 0").a, self.inner(q=f"{q} 1").answer, *(hop(q=f"{q} {at}").a for at, hop in enumerate(self.hops, 2))]
        return dspy.Prediction(a=" ".join([*said, self.by["en"](q=f"{q} 4").a]))


class Loop(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan, self.act, self.answer = dspy.Predict("q -> plan"), dspy.Predict("q, step -> act"), dspy.Predict("q -> answer")

    def forward(self, q: str) -> Any:
        if q.startswith("hard"):
            self.plan(q=q)
        for step in range(2):
            self.act(q=q, step=str(step))
        return self.answer(q=q)


class Both(dspy.Module):
    """Its second predictor is done before its first is asked, whatever the threads do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = dspy.Predict("q -> a"), dspy.Predict("q -> b")

    def forward(self, q: str) -> dspy.Prediction:
        b_is_done = threading.Event()

        def first() -> Any:
            made = self.b(q=q)
            b_is_done.set()
            return made

        def last() -> Any:
            b_is_done.wait(60)
            return self.a(q=q)

        one, two = dspy.Parallel(num_threads=2, disable_progress_bar=True)([(last, {}), (first, {})])
        return dspy.Prediction(a=one.a, b=two.b)


class Raw(Both):
    def forward(self, q: str) -> dspy.Prediction:
        said: dict[str, str] = {}
        thread = threading.Thread(target=lambda: said.update(a=self.a(q=q).a))
        thread.start()
        thread.join()
        return dspy.Prediction(a=said["a"], b=self.b(q=q).b)


class AsyncOnly(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = dspy.Predict("q -> a")

    async def aforward(self, q: str) -> Any:
        return await self.a.acall(q=q)


class Overriding(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = dspy.Predict("q -> a")

    def forward(self, q: str) -> Any:
        return self.p(q=q, signature=dspy.Signature("q -> a, why", "Another task."))


def look_up(x: str) -> str:
    return "seen"


def uses_a_tool(ask: Ask) -> Answer:
    if "next_tool_name" not in ask.outputs:
        return say(ask)
    done = "thought_1" in ask.text
    return {"next_thought": "t", "next_tool_name": "finish" if done else "look_up", "next_tool_args": {} if done else {"x": "1"}}


def best(attempts: int = 2) -> dspy.Module:
    return dspy.BestOfN(dspy.ChainOfThought("q -> a"), N=attempts, reward_fn=lambda args, made: float(made.a == "good"), threshold=1.0)


def bad_then_good() -> Answerer:
    """The first answer to a question, and the next ones: examples are asked side by side."""
    asked = set[str]()

    def answer(ask: Ask) -> Answer:
        question = ask.inputs["q"]
        said = "good" if question in asked else "bad"
        asked.add(question)
        return {"reasoning": "r", "a": said}

    return answer


# Each predictor is called once at most, in their order.
SAME: dict[str, Callable[[], dspy.Module]] = {
    "predict": lambda: dspy.Predict("q -> answer"),
    "chain of thought": lambda: dspy.ChainOfThought("q -> answer"),
    "typed": lambda: dspy.Predict(Typed),
    "two": Two,
    "native": Native,
    "tree": Tree,
}
# In another order, several times or beside each other: with the LM that answers.
OTHER: dict[str, tuple[Callable[[], dspy.Module], Answerer]] = {
    "loop": (Loop, say),
    "react": (lambda: dspy.ReAct("q -> answer", tools=[look_up]), uses_a_tool),
    "parallel": (Both, say),
    "raw threads": (Raw, say),
}
