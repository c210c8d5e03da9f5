"""Programs that keep their prompt adapter, whatever the app around them configures.

dspy's prompt adapter is global: an app that configures another would silently send a tuned model another prompt. So a pinned program runs
under its own, as it did when it was evaluated. What happens inside of it is its own doing: the prompt adapter that Refine wraps around to
give a hint reaches the prompt, and a predictor that is made on the way asks under the pin too.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import dspy

from stillhouse_programs.tuned_provider import OFF, PROMPT_CHECK, PROVIDER, carried

PinnedModule = TypeVar("PinnedModule", bound=dspy.Module)
CallConfig: TypeAlias = Callable[[Any, Any, Mapping[str, Any]], Mapping[str, Any]]  # of an LM, a signature, and the config so far
Guard: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]  # around the outermost call

_PIN = "_stillhouse_pin"
_CALL_CONFIG = "_stillhouse_call_config"
_REQUIRED = "_stillhouse_required"
_TRAINED = "_stillhouse_trained"
_SETTING = "stillhouse_pin"


@dataclass(frozen=True, eq=False)
class _Pin:
    """One object for a program and all its copies, so that a part of it knows that it is run inside of it."""

    prompt_adapter: dspy.Adapter
    guard: Guard

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Pin":
        return self

    @contextlib.contextmanager
    def around(self, part: dspy.Module) -> Iterator[None]:
        """Set the prompt adapter for the outermost part that is called; inside of it nothing is set again.

        Predictors that have no LM, such as the one that Refine makes, ask the first predictor's where the app has configured none:
        they did so when the program was evaluated.
        """
        if dspy.settings.get(_SETTING) is self:
            yield
            return
        lm = dspy.settings.lm or next((predictor.lm for predictor in part.predictors() if predictor.lm is not None), None)
        with self.guard(), dspy.context(**{_SETTING: self, "adapter": self.prompt_adapter, "lm": lm}):
            yield


def pin(
    program: PinnedModule,
    prompt_adapter: dspy.Adapter,
    call_configs: Mapping[str, CallConfig] | None = None,
    *,
    guard: Guard = contextlib.nullcontext,
    required: Collection[str] = (),
) -> PinnedModule:
    """Make `program` run under `prompt_adapter`, whatever `dspy.configure(adapter=…)` says; returns `program`.

    Each of its parts does, too, when it is called by itself or in a thread that knows nothing of the program. The pin survives deep
    copies and is not part of the program's state. `call_configs` maps predictors to what each of their calls adds to its config. `guard`
    is entered around each outermost call. A call without one of the inputs `required` is a TypeError, before any LM is asked.
    """
    own = _Pin(prompt_adapter, guard)
    for part in _parts(program):
        if not hasattr(part, _PIN):
            part.__class__ = _pinned_class(part.__class__)
        setattr(part, _PIN, own)
    for name, predictor in program.named_predictors():
        setattr(predictor, _CALL_CONFIG, (call_configs or {}).get(name))
        setattr(predictor, _TRAINED, predictor.signature.dump_state())
    setattr(program, _REQUIRED, tuple(required))
    return program


def pin_like(program: PinnedModule, pinned: dspy.Module) -> PinnedModule:
    """Pin `program` as another one with the same predictors is; returns `program`."""
    own: _Pin = getattr(pinned, _PIN)
    configs = {name: config for name, part in pinned.named_predictors() if (config := getattr(part, _CALL_CONFIG)) is not None}
    return pin(program, own.prompt_adapter, configs, guard=own.guard, required=getattr(pinned, _REQUIRED))


def pinned_prompt_adapter(part: dspy.Module) -> dspy.Adapter | None:
    """Return the prompt adapter that a program or a part of one is pinned to, or None."""
    own: _Pin | None = getattr(part, _PIN, None)
    return None if own is None else own.prompt_adapter


def unpin(program: PinnedModule) -> PinnedModule:
    """Undo `pin`; returns `program`."""
    for part in _parts(program):
        if hasattr(part, _PIN):
            part.__class__ = type(part).__bases__[0]
            delattr(part, _PIN)
            vars(part).pop(_CALL_CONFIG, None)
            vars(part).pop(_REQUIRED, None)
            vars(part).pop(_TRAINED, None)
    return program


def _parts(program: dspy.Module) -> list[Any]:
    return [part for _, part in program.named_sub_modules(dspy.Module)]


def _configured(part: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call with the config that the pin adds; LM and signature are found as dspy finds them."""
    call_config: CallConfig | None = getattr(part, _CALL_CONFIG, None)
    if call_config is None:
        return arguments
    lm = arguments.get("lm", part.lm) or dspy.settings.lm
    signature = dspy.ensure_signature(arguments.get("signature", part.signature))
    given = arguments.get("config", {})
    return {**arguments, "config": {**given, **call_config(lm, signature, {**part.config, **given})}}


def _check_inputs(part: Any, args: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
    """dspy itself only warns, and the call is paid. Inputs that are given by position are left to the program's own signature."""
    missing = [name for name in getattr(part, _REQUIRED, ()) if name not in arguments]
    if missing and not args:
        raise TypeError(f"the program lacks {', '.join(missing)}: it takes {', '.join(getattr(part, _REQUIRED))}")


def _saved(part: Any, state: Any) -> Any:
    """The state of a part as dspy saves it. A state has no pin, so whoever loads it has prompts checked against those that its model was
    trained on; but where the part asks with others, as dspy's optimizers write them, no prompt would pass."""
    trained = getattr(part, _TRAINED, None)
    if trained is None or state["signature"] == trained or not (state["lm"] or {}).get("model", "").startswith(f"{PROVIDER}/"):
        return state
    return {**state, "lm": {**state["lm"], **carried(state["lm"], {PROMPT_CHECK: OFF})}}


@functools.cache
def _pinned_class(base: Any) -> Any:
    # Not `__call__`: some programs call `forward` itself, of which dspy only warns.
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        _check_inputs(self, args, kwargs)
        with getattr(self, _PIN).around(self):
            return base.forward(self, *args, **_configured(self, kwargs))

    async def aforward(self: Any, *args: Any, **kwargs: Any) -> Any:
        _check_inputs(self, args, kwargs)
        with getattr(self, _PIN).around(self):
            return await base.aforward(self, *args, **_configured(self, kwargs))

    def dump_state(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _saved(self, base.dump_state(self, *args, **kwargs))

    # Which of the first two a program has says how it is to be run.
    own = {function.__name__: function for function in (forward, aforward, dump_state) if hasattr(base, function.__name__)}
    return type(base.__name__, (base,), {**own, "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__})
