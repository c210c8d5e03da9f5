"""Whether a metric and a program can be called as they will be, from their signatures alone. What a signature does not say is no fault."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import dspy

from stillhouse_programs.spec_models import nearest

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def metric_fault(metric: Callable[..., Any]) -> str | None:
    """Why a metric cannot be called with `(example, prediction, trace)`; None where it can."""
    try:
        # What a decorator returns is what is called, whatever it wraps.
        signature = inspect.signature(metric, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        return (
            f"it takes {signature} and is called with (example, prediction, trace): {error}. Write it as (example, prediction, trace=None)"
        )
    return None


def inputs_fault(program: dspy.Module, inputs: Collection[str]) -> str | None:
    """Why the program's `aforward` (or `forward`) does not take these inputs; None where it may."""
    kind = type(program)
    if (kind.__call__, kind.acall) != (dspy.Module.__call__, dspy.Module.acall):
        return None  # it may give `forward` other ones
    # A rollout runs `aforward` where there is one. dspy warns whoever reads `forward` as usual that it is not to be called.
    own = vars(program)
    name = next((name for name in ("aforward", "forward") if name in own or inspect.getattr_static(kind, name, None) is not None), "")
    run = None if name in own else inspect.getattr_static(kind, name, None)  # nothing is known of an instance's own
    if not isinstance(run, FunctionType):
        return None
    parameters = list(inspect.signature(run, follow_wrapped=False).parameters.values())[1:]
    known = [each.name for each in parameters if each.kind in _NAMED]
    if lacking := [each.name for each in parameters if each.kind in _NAMED and each.default is each.empty and each.name not in inputs]:
        return f"{name} of {kind.__name__} needs `{lacking[0]}`, which is not among the inputs {_listed(inputs)}"
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if strange := [] if takes_any else [each for each in inputs if each not in known]:
        return f"{name} of {kind.__name__} takes no `{strange[0]}`{nearest(strange[0], known)}; it takes {_listed(known)}"
    return None


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
