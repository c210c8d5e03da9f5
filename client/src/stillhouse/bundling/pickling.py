"""Programs and metrics by value: what is of `__main__` travels as code, what is of a module by its name."""

from __future__ import annotations

import base64
import copy
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Literal

import cloudpickle
import dspy

from stillhouse.bundling.code import by_reference, imports_of
from stillhouse.bundling.culprit import culprit
from stillhouse.bundling.document import MAX_BYTES
from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.whose import Whose, whose
from stillhouse_programs.pinning import unpin

Makes = Literal["program", "metric"]


@dataclass
class Pickled:
    """`modules` are imported when it is opened, `asked_for` when it is run, if at all; `by_value` names what travels as code."""

    makes: Makes
    data: bytes
    modules: set[str] = field(default_factory=set)
    asked_for: set[str] = field(default_factory=set)
    by_value: list[str] = field(default_factory=list)

    def part(self) -> dict[str, str]:
        """As it stands in a document."""
        return {"makes": self.makes, "data": base64.b64encode(self.data).decode("ascii")}


class _Stays(Exception):
    """Something that is not sent, whether or not it could be."""


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()
        self.asked_for: set[str] = set()
        self.by_value: list[str] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, dspy.BaseLM):
            raise _Stays("is an LM. LMs and their keys are not sent, and code on the server reaches none but those of the predictors")
        if isinstance(obj, type(os.environ)):
            raise _Stays("is the environment of this process, which is not sent: it holds keys, and code on the server has an empty one")
        if isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(obj, (type, FunctionType)) and not by_reference(obj):
            self._take(obj)
        else:
            named = obj if isinstance(obj, (type, FunctionType, BuiltinFunctionType)) else type(obj)
            if by_reference(named):
                self.modules.add(named.__module__)
        return super().reducer_override(obj)

    def _take(self, thing: Any) -> None:
        *around, name = thing.__qualname__.split(".")
        of_library = thing.__module__ != "__main__" and whose(thing.__module__ or "builtins") is not Whose.OWN
        if not of_library and (not around or around[-1] == "<locals>"):
            self.by_value.append("lambda" if name == "<lambda>" else name)
        if isinstance(thing, FunctionType):
            self.asked_for.update(imports_of(thing))


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    """Takes as much as a bundle holds."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_BYTES:
            raise _TooLarge
        return super().write(data)


class _WithoutLMs(_Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return (dict, ()) if isinstance(obj, dspy.BaseLM) else super().reducer_override(obj)


def too_large(program: dspy.Module) -> bool:
    """Whether a program holds more than a bundle does, found out without a copy and from no more than that. LMs are left out."""
    try:
        _WithoutLMs(_Bounded()).dump(program)
    except _TooLarge:
        return True
    except Exception:  # a part that is not sent is named where the program is pickled whole
        return False
    return False


def pickled(value: Any, makes: Makes) -> Pickled:
    """Raises NotSendable, which names the part that is in the way."""
    try:
        return _dumped(value, makes)
    except _Stays:
        name, part = culprit(value, makes, lambda each: _fault(each, (_Stays,)) is None)
        raise NotSendable(f"{name} {_fault(part, (_Stays,))}") from None
    except Exception:
        raise _unpicklable(value, makes, lambda each: _fault(each) is None) from None


def bare(program: dspy.Module) -> dspy.Module:
    """A copy without LMs, and as it was before it was pinned. Raises NotSendable where a part cannot be copied."""
    try:
        copied = unpin(copy.deepcopy(program))
    except Exception:
        raise _unpicklable(program, "program", _copies) from None
    for _, predictor in copied.named_predictors():
        predictor.lm = None
    return copied


def _dumped(value: Any, makes: Makes) -> Pickled:
    with io.BytesIO() as file:
        pickler = _Pickler(file)
        pickler.dump(value)
        return Pickled(makes, file.getvalue(), pickler.modules, pickler.asked_for, list(dict.fromkeys(pickler.by_value)))


def _unpicklable(value: Any, makes: Makes, fits: Callable[[Any], bool]) -> NotSendable:
    name, part = culprit(value, makes, fits)
    return NotSendable(
        f"{name} is a {type(part).__qualname__}, which cannot be sent: make it where it is used, inside of forward or the metric"
    )


def _fault(value: Any, of: tuple[type[Exception], ...] = (Exception,)) -> Exception | None:
    """Why a value is not sent, if it is for one of these reasons."""
    try:
        _dumped(value, "metric")
    except of as fault:
        return fault
    except Exception:
        return None
    return None


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
