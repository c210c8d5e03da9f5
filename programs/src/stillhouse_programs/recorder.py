"""Who called what: the private tag that names predictors, and the recorder of one rollout's predictor calls."""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import quote

import dspy
from dspy.dsp.utils.settings import settings
from pydantic_core import PydanticUndefined, to_jsonable_python

from stillhouse_programs.native import storable
from stillhouse_programs.pinning import pinned_prompt_adapter
from stillhouse_programs.protocol import InfrastructureError, encode
from stillhouse_programs.relay_http import Caller

# A class made by dspy.Signature; dspy has no annotations.
SignatureType: TypeAlias = Any

TAG = "_stillhouse_predictor"
_RECORDED = "_stillhouse_recorded"
SETTING = "stillhouse_recorder"
_CALL_OPTIONS = ("signature", "demos", "lm", "config")

CURRENT_CALL: ContextVar[Call | None] = ContextVar("stillhouse_current_call", default=None)


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

    def as_json(self) -> dict[str, int]:
        return {"calls": self.calls, **self.tokens()}

    def tokens(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }


class Answer(NamedTuple):
    """What an LM host sent back. `reasoning` is the text that reasoning models give beside their answer, `tool_calls` OpenAI's list.

    `logprob` is the answer's log-probability, where the host gives those of its tokens.
    """

    text: str
    truncated: bool = False
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    logprob: float | None = None


@dataclass
class Call:
    """One call of one predictor. `predictor` is None for one that is not part of the program."""

    predictor: str | None
    signature: SignatureType
    inputs: dict[str, Any]
    overrides: list[str]
    started: float
    seed: int | None
    parent: Call | None
    asked: int = 0
    """How often it has asked an LM."""
    usage: Usage = field(default_factory=Usage)
    outputs: dict[str, Any] | None = None
    answers: list[Answer] = field(default_factory=list)
    slot: str | None = None
    seconds: float = 0.0
    prediction: dspy.Prediction | None = None
    discarded: bool = False

    @property
    def truncated(self) -> bool:
        return any(answer.truncated for answer in self.answers)

    def as_json(self) -> dict[str, Any]:
        """`lm` is the slot that was asked; what of an answer is not text, and `discarded`, is there only when there is some."""
        first = self.answers[0] if self.answers else Answer("")
        extra = {"reasoning": first.reasoning, "tool_calls": first.tool_calls, "discarded": self.discarded}
        return {
            "predictor": self.predictor,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "raw": first.text if self.answers else None,
            "overrides": self.overrides,
            "lm": self.slot,
            "usage": self.usage.tokens(),
            "seconds": round(self.seconds, 4),
            **{name: value for name, value in extra.items() if value},
            **({"logprob": first.logprob} if first.logprob is not None else {}),
        }


class Own(NamedTuple):
    """What a predictor's prompt is made of when the program changes nothing."""

    signature: SignatureType
    demos: list[Any]


class Fields(NamedTuple):
    """A signature's field names with the defaults of the inputs, kept because dspy makes its dicts of fields anew at every look."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


@functools.lru_cache(maxsize=4096)
def fields_of(signature: SignatureType) -> Fields:
    """Inputs with their defaults (PydanticUndefined where there is none), outputs with their types."""
    inputs = {name: info.default for name, info in signature.input_fields.items()}
    return Fields(inputs, {name: info.annotation for name, info in signature.output_fields.items()})


def tag_predictors(program: dspy.Module) -> dict[str, Own]:
    """Name every predictor, and make it tell the recorder of its calls. Do it before `pin`, which may be undone.

    Tag and class survive `deepcopy`, so the copies that BestOfN and its like make keep both. dspy's callbacks would tell as much, but
    they cost more CPU than the rest of a call: each looks up its handler through a runtime protocol check.
    """
    named = dict(program.named_predictors())
    for name, predictor in named.items():
        setattr(predictor, TAG, name)
        if not hasattr(predictor, _RECORDED):
            predictor.__class__ = _recorded_class(cast("Any", type(predictor)))
    return {name: Own(predictor.signature, list(predictor.demos)) for name, predictor in named.items()}


@functools.cache
def _recorded_class(base: Any) -> Any:
    # Not `__call__`: some programs call `forward` itself, of which dspy only warns.
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _recorded(self, kwargs) as record:
            return record.returned(base.forward(self, *args, **kwargs))

    async def aforward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _recorded(self, kwargs) as record:
            return record.returned(await base.aforward(self, *args, **kwargs))

    own = {"forward": forward, "aforward": aforward, "__module__": base.__module__, _RECORDED: True}
    return type(base.__name__, (base,), own)


class _recorded:
    """Around one predictor call. Outside of a rollout it does nothing."""

    def __init__(self, predictor: dspy.Predict, kwargs: dict[str, Any]) -> None:
        recorder = settings.get(SETTING)
        self._recorder: Recorder | None = recorder if isinstance(recorder, Recorder) else None
        self._predictor = predictor
        self._kwargs = kwargs
        self._output: Any = None

    def __enter__(self) -> _recorded:
        if self._recorder is not None:
            self._call = self._recorder.begin(self._predictor, self._kwargs)
        return self

    def returned(self, output: Any) -> Any:
        self._output = output
        return output

    def __exit__(self, *_: object) -> None:
        if self._recorder is not None:
            self._recorder.end(self._call, self._output)


class Recorder:
    """Records the predictor calls of one rollout. It travels in dspy's settings, which reach the threads of dspy and of the program."""

    def __init__(self, token: str, seed: int | None, named: Mapping[str, Own], prompt_adapter: dspy.Adapter) -> None:
        self.token = token
        self.rollout = secrets.token_hex(8)
        self.calls: list[Call] = []
        self.foreign_calls = 0
        self.usage = Usage()
        self.usage_of: dict[str, Usage] = {}
        self.infrastructure: InfrastructureError | None = None
        self._seed = seed
        self._named = named
        self._prompt_adapter = prompt_adapter
        self._ordinals: dict[str | None, int] = {}
        self._closed = False
        self._lock = threading.Lock()

    def begin(self, predictor: dspy.Predict, kwargs: dict[str, Any]) -> Call:
        name = getattr(predictor, TAG, None)
        signature = predictor.signature if "signature" not in kwargs else dspy.ensure_signature(kwargs["signature"])
        call = Call(
            predictor=name,
            signature=signature,
            inputs={},
            overrides=self._overrides(predictor, kwargs) if name is not None else [],
            started=time.perf_counter(),
            seed=self.next_seed(name),
            parent=CURRENT_CALL.get(),
        )
        call.inputs = _plain(call, _given_inputs(signature, kwargs))
        CURRENT_CALL.set(call)
        return call

    def end(self, call: Call, output: Any) -> None:
        """`output` is None for a call that raised."""
        CURRENT_CALL.set(call.parent)
        call.seconds = time.perf_counter() - call.started
        if call.predictor is None:
            with self._lock:
                self.foreign_calls += 1
            return
        if isinstance(output, dspy.Prediction):
            call.prediction = output
            call.outputs = _plain(call, {name: output[name] for name in fields_of(call.signature).outputs if name in output})
        self.calls.append(call)

    def mark_discarded(self, trace: list[Any]) -> None:
        """Mark the calls that are not in dspy's own trace: BestOfN and Refine leave only their best attempt there."""
        if len(trace) >= settings.max_trace_size:
            return  # dspy has dropped the oldest
        kept = {id(prediction) for _, _, prediction in trace}
        for call in self.calls:
            call.discarded = call.prediction is not None and id(call.prediction) not in kept

    def answered(self, slot: str, usage: Usage, answer: Answer) -> None:
        """One LM call has its answer: it belongs to the predictor that is running, or to none of the program's."""
        call = CURRENT_CALL.get()
        with self._lock:
            self.usage.add(usage)
            self.usage_of.setdefault(slot, Usage()).add(usage)
            if call is None:
                self.foreign_calls += 1
                return
            call.usage.add(usage)
            call.answers.append(answer)
            call.slot = slot

    def next_seed(self, name: str | None) -> int | None:
        """Each call of a predictor has a seed of its own: a loop or BestOfN that asks twice wants two samples."""
        if self._seed is None:
            return None
        with self._lock:
            ordinal = self._ordinals[name] = self._ordinals.get(name, -1) + 1
        return (self._seed + ordinal) & 0x7FFFFFFF

    def caller(self, call: Call | None, seed: int | None) -> Caller:
        """Who asks an LM for a call of `next_seed`, or for none. A call that asks twice, as for a second prompt adapter, has two names."""
        if seed is None:
            return Caller(self.token, self.rollout)
        if call is None:
            return Caller(self.token, self.rollout, f"{self._seed}/.{seed}")
        with self._lock:
            call.asked += 1
        return Caller(self.token, self.rollout, f"{self._seed}/{quote(call.predictor or '')}.{seed}.{call.asked}")

    def close(self) -> None:
        """The rollout is over. A thread that it left behind asks no LM any more."""
        self._closed = True

    def check_open(self) -> None:
        """Raises InfrastructureError for a call after the end."""
        if self._closed:
            raise InfrastructureError("rollout_over", "the rollout that this call belongs to is over")

    def fail(self, error: InfrastructureError) -> InfrastructureError:
        """Remember it, so that a program that swallows even BaseException still ends as infrastructure."""
        self.infrastructure = self.infrastructure or error
        return error

    def _overrides(self, predictor: dspy.Predict, kwargs: dict[str, Any]) -> list[str]:
        """What makes this prompt another than the predictor's own: given at the call, or changed on the predictor or in the settings."""
        own = self._named.get(getattr(predictor, TAG, ""))
        found = [option for option in _CALL_OPTIONS if option in kwargs]
        if own is not None:
            if predictor.signature is not own.signature and "signature" not in found:
                found.append("signature")
            if predictor.demos != own.demos and "demos" not in found:
                found.append("demos")
        if settings.adapter is not (pinned_prompt_adapter(predictor) or self._prompt_adapter):
            found.append("prompt_adapter")
        return found


def _plain(call: Call, values: dict[str, Any]) -> dict[str, Any]:
    """JSON values. What JSON cannot hold (a tool, a client) is kept as text and marked, so that it never becomes a training row."""
    plain = {}
    for name, value in values.items():
        try:
            plain[name] = value if type(value) is str else jsonable(value)
        except ValueError:
            plain[name] = repr(value)
            call.overrides.append(f"not_json:{name}")
    return plain


def jsonable(value: Any) -> Any:
    """A value as JSON that a line of the protocol can hold. Raises ValueError, also for an integer of more than 64 bits."""
    plain = to_jsonable_python(storable(value))
    encode(plain)
    return plain


def _given_inputs(signature: SignatureType, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The signature's inputs, in its order, with the defaults that dspy fills in."""
    known = {name: kwargs.get(name, default) for name, default in fields_of(signature).inputs.items()}
    return {name: value for name, value in known.items() if value is not PydanticUndefined}
