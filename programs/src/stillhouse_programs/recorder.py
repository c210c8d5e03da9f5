"""Who called what: the private tag that names predictors, and the recorder of one rollout's predictor calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dspy
from dspy.dsp.utils.settings import settings
from dspy.utils.callback import BaseCallback
from pydantic_core import PydanticUndefined, to_jsonable_python

from stillhouse_programs.prompts import pinned_prompt_adapter

TAG = "_stillhouse_predictor"
SETTING = "stillhouse_recorder"
_CALL_OPTIONS = ("signature", "demos", "lm", "config")

CURRENT_CALL: ContextVar[Call | None] = ContextVar("stillhouse_current_call", default=None)


class InfrastructureError(BaseException):
    """Something that says nothing about the program: rate limit, time, budget, a lost relay. Never stored as a fact.

    Not an `Exception`, so that a program's own `except Exception` cannot turn it into an answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Usage:
    """Tokens, as the LM host counted them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: Usage) -> None:
        self.calls += other.calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens

    def tokens(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }


@dataclass
class Call:
    """One call of one predictor. `predictor` is None for one that is not part of the program."""

    predictor: str | None
    signature: type[dspy.Signature]
    inputs: dict[str, Any]
    overrides: list[str]
    started: float
    seed: int | None
    parent: Call | None
    usage: Usage = field(default_factory=Usage)
    outputs: dict[str, Any] | None = None
    raws: list[str] = field(default_factory=list)
    truncated: bool = False
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "predictor": self.predictor,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "raw": self.raws[0] if self.raws else None,
            "overrides": self.overrides,
            "usage": self.usage.tokens(),
            "seconds": round(self.seconds, 4),
        }


class Own(NamedTuple):
    """What a predictor's prompt is made of when the program changes nothing."""

    signature: type[dspy.Signature]
    demos: list[Any]


def tag_predictors(program: dspy.Module) -> dict[str, Own]:
    """Name every predictor. The tag survives `deepcopy`, so the copies that BestOfN and its like make keep it."""
    named = dict(program.named_predictors())
    for name, predictor in named.items():
        setattr(predictor, TAG, name)
    return {name: Own(predictor.signature, list(predictor.demos)) for name, predictor in named.items()}


class Recorder(BaseCallback):  # type: ignore[misc]
    """Records the predictor calls of one rollout. It travels in dspy's settings, which reach dspy's own threads."""

    def __init__(self, token: str, seed: int | None, named: Mapping[str, Own], prompt_adapter: dspy.Adapter) -> None:
        self.token = token
        self.calls: list[Call] = []
        self.foreign_calls = 0
        self.usage = Usage()
        self.infrastructure: InfrastructureError | None = None
        self._seed = seed
        self._named = named
        self._prompt_adapter = prompt_adapter
        self._open: dict[str, Call] = {}
        self._ordinals: dict[str | None, int] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, dspy.Predict):
            call = self._open[call_id] = self._begin(instance, inputs.get("kwargs", inputs))
            CURRENT_CALL.set(call)

    def on_module_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        call = self._open.pop(call_id, None)
        if call is None:
            return
        CURRENT_CALL.set(call.parent)
        call.seconds = time.perf_counter() - call.started
        self.usage.add(call.usage)
        if call.predictor is None:
            self.foreign_calls += 1
            return
        if isinstance(outputs, dspy.Prediction):
            call.outputs = self._plain(call, {k: outputs[k] for k in call.signature.output_fields if k in outputs})
        self.calls.append(call)

    def fail(self, error: InfrastructureError) -> InfrastructureError:
        """Remember it, so that a program that swallows even BaseException still ends as infrastructure."""
        self.infrastructure = self.infrastructure or error
        return error

    def _begin(self, predictor: dspy.Predict, kwargs: dict[str, Any]) -> Call:
        name = getattr(predictor, TAG, None)
        signature = dspy.ensure_signature(kwargs.get("signature", predictor.signature))
        ordinal = self._ordinals[name] = self._ordinals.get(name, -1) + 1
        call = Call(
            predictor=name,
            signature=signature,
            inputs={},
            overrides=self._overrides(predictor, kwargs) if name is not None else [],
            started=time.perf_counter(),
            # Each call of a predictor has a seed of its own: a loop or BestOfN that asks twice wants two samples.
            seed=None if self._seed is None else (self._seed + ordinal) & 0x7FFFFFFF,
            parent=CURRENT_CALL.get(),
        )
        call.inputs = self._plain(call, _given_inputs(signature, kwargs))
        return call

    def _overrides(self, predictor: dspy.Predict, kwargs: dict[str, Any]) -> list[str]:
        """What makes this prompt another than the predictor's own: given at the call, or changed on the predictor or in the settings."""
        own = self._named.get(getattr(predictor, TAG, ""))
        found = [option for option in _CALL_OPTIONS if option in kwargs]
        if own is not None:
            if predictor.signature is not own.signature and "signature" not in found:
                found.append("signature")
            if predictor.demos != own.demos and "demos" not in found:
                found.append("demos")
        if pinned_prompt_adapter(predictor) is None and settings.adapter is not self._prompt_adapter:
            found.append("prompt_adapter")
        return found

    def _plain(self, call: Call, values: dict[str, Any]) -> dict[str, Any]:
        """JSON values. What JSON cannot hold (a tool, a client) is kept as text and marked, so that it never becomes a training row."""
        plain = {}
        for name, value in values.items():
            try:
                plain[name] = value if type(value) is str else to_jsonable_python(value)
            except ValueError:
                plain[name] = repr(value)
                call.overrides.append(f"not_json:{name}")
        return plain


def _given_inputs(signature: type[dspy.Signature], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The signature's inputs, in its order, with the defaults that dspy fills in."""
    values = {}
    for name, info in signature.input_fields.items():
        if name in kwargs:
            values[name] = kwargs[name]
        elif info.default is not PydanticUndefined:
            values[name] = info.default
    return values
