"""The other side of rollouts: dspy.Evaluate over a bare Predict, through dspy's native LM route, with a pool of threads."""

from __future__ import annotations

import logging
import time
from typing import Any

import dspy

from bench.fake_lm import ANSWER
from bench.side import Json, serve
from bench.task import program, questions
from examples.trec.data import CATEGORIES


def stock_predict() -> Any:
    """The same signature as in the spec, written as a dspy user writes it."""
    instructions = program()["predictors"][0]["signature"]["instructions"]
    labels = ", ".join(repr(name) for name in sorted(CATEGORIES.values()))
    return dspy.Predict(dspy.Signature(f"question -> category: Literal[{labels}]", instructions))


def exact_match(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.category == prediction.category)


def answer(request: Json) -> Json:
    """`run`: evaluate `n` examples with `in_flight` threads."""
    lm = dspy.LM("openai/fake", api_base=request["url"], api_key="none", engine="lm15", cache=False, num_retries=0)
    examples = [dspy.Example(question=text, category=ANSWER).with_inputs("question") for text in questions(request["n"])]
    evaluate = dspy.Evaluate(devset=examples, metric=exact_match, num_threads=request["in_flight"], display_progress=False)
    predict = stock_predict()
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        began = time.monotonic()
        result = evaluate(predict)
        seconds = time.monotonic() - began
    return {"seconds": seconds, "passed": round(result.score * len(examples) / 100)}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve(answer)
