"""Programs made by chance, which know themselves what a right training row of theirs is."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy

OUTPUTS: dict[str, Any] = {"text": str, "note": str, "n_items": int, "c_choice": Literal["yes", "no"], "l_parts": list[str]}


@dataclass
class Truth:
    """What a program did, written down by itself: of each call the predictor's name, the signature, demos, inputs and outputs."""

    calls: list[tuple[str, Any, list[Any], dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> Truth:
        return self  # a copy of the program goes on writing here

    def rows(self, adapter: dspy.Adapter, with_demos: bool) -> dict[str, list[str]]:
        """By predictor, the messages of its rows as JSON text, sorted."""
        found: dict[str, list[str]] = {}
        for name, signature, demos, inputs, outputs in self.calls:
            messages = adapter.format_finetune_data(signature, demos if with_demos else [], inputs, outputs)["messages"]
            found.setdefault(name, []).append(json.dumps(messages, ensure_ascii=False))
        return {name: sorted(texts) for name, texts in found.items()}


class Leaf(dspy.Module):
    """A predictor on its own, or with reasoning, inside a module."""

    def __init__(self, predictor: dspy.Module) -> None:
        super().__init__()
        self.inner = predictor

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


class Chance(dspy.Module):
    """One program a seed. In half of them each predictor is called once, in order; the others loop, branch, skip and repeat."""

    def __init__(self, seed: int, role: str) -> None:
        super().__init__()
        rnd = random.Random(seed)
        self.role = role
        self.in_order = rnd.random() < 0.5
        for at in range(rnd.randint(1, 3)):
            setattr(self, f"step{at}", _module(rnd, role))
        self.hops = [_module(rnd, role) for _ in range(rnd.randint(0, 2))]
        self.by = {"en": _module(rnd, role)} if rnd.random() < 0.3 else {}
        self.plan = [] if self.in_order else _plan(rnd, len(self.named_predictors()))
        self.truth = Truth()

    def forward(self, q: str) -> dspy.Prediction:
        found = self.named_predictors()
        hard = len(q) % 2 == 1
        plan = self.plan or [(at, "always") for at in range(len(found))]
        for number, (at, when) in zip(itertools.count(), plan, strict=False):
            if when == "always" or (when == "hard") == hard:
                name, predictor = found[at % len(found)]
                self._call(name, predictor, f"{q} / {number}")
        return dspy.Prediction(done="yes")

    def _call(self, name: str, predictor: dspy.Predict, question: str) -> None:
        inputs = {
            field_name: question if field_name == "q" else f"{field_name} of {question}" for field_name in predictor.signature.input_fields
        }
        answer = predictor(**inputs)
        self.truth.calls.append((name, predictor.signature, list(predictor.demos), inputs, dict(answer.items())))


def _module(rnd: random.Random, role: str) -> dspy.Module:
    outputs = rnd.sample(sorted(OUTPUTS), rnd.randint(1, 3))
    fields: dict[str, Any] = {"q": (str, dspy.InputField())}
    if rnd.random() < 0.4:
        fields["context"] = (str, dspy.InputField(desc="what is known"))
    fields |= {name: (OUTPUTS[name], dspy.OutputField()) for name in outputs}
    instructed = rnd.random() < 0.5
    signature = dspy.Signature(fields, f"Do it as the {role}." if instructed else "Do it.\nBe brief.")
    reasons, deep, shown = rnd.random() < 0.3, rnd.random() < 0.3, rnd.random() < 0.3
    predictor: dspy.Module = dspy.ChainOfThought(signature) if reasons else dspy.Predict(signature)
    if shown:
        predictor.predictors()[0].demos = [_demo(predictor.predictors()[0].signature)] if role == "teacher" else []
    return Leaf(predictor) if deep else predictor


def _demo(signature: Any) -> dspy.Example:
    kinds: dict[Any, Any] = {int: 7, list[str]: ["a", "b"]}
    values = {name: kinds.get(info.annotation, "yes" if name == "c_choice" else f"a {name}") for name, info in signature.fields.items()}
    return dspy.Example(**values)


def _plan(rnd: random.Random, predictors: int) -> list[tuple[int, str]]:
    return [(rnd.randrange(predictors), rnd.choice(["always", "always", "hard", "easy"])) for _ in range(rnd.randint(1, 5))]
