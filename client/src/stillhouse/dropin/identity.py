"""What tells a metric or a program from another one: the source text of its code, and the values that it holds."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, get_origin
from uuid import UUID

import dspy

from stillhouse.bundling.code import code_of

PLAIN = (str, int, float, complex, bool, bytes, type(None), range, date, time, timedelta, Decimal, PurePath, UUID, re.Pattern)
"""Values that their `repr` tells apart."""
_SHOWN_OF_PATTERN = 200
_WORKING = frozenset({"history", "callbacks", "_compiled", "stage", "traces", "train"})
"""What dspy's modules hold while they work."""
_OF_PREDICTORS = ("signature", "demos", "lm", "config")


class Untold(Exception):
    """A value that cannot be told from another; the text is the name that it is held under."""


def describe(thing: Any) -> str:
    """Equal for things of the same code that hold the same values, in every process. Raises Untold."""
    return repr(Describer().of(thing, "itself"))


def describe_program(program: dspy.Module) -> str:
    """As `describe`, without the LMs of its predictors: which are asked is said beside it. Raises Untold."""
    return repr(Describer(lms=False).of(program, "itself"))


def source(thing: type | CodeType) -> str:
    """The source text of a class or of a function's code; what is compiled of it where there is none."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, made at run time, or in a file that is not Python alone
        return "\n".join(_compiled(thing)) if isinstance(thing, type) else code_of(thing)


def _source_of_class(kind: type) -> str:
    """Those of libraries are read once: that takes long, and unlike the caller's they are not edited meanwhile."""
    return _source_of_library(kind) if kind.__module__.partition(".")[0] in ("dspy", "pydantic") else source(kind)


@functools.cache
def _source_of_library(kind: type) -> str:
    return source(kind)


class Describer:
    """A value that was met before is only pointed at: values may hold each other."""

    def __init__(self, lms: bool = True) -> None:
        self._met: dict[int, tuple[int, Any]] = {}
        self._lms = lms

    def of(self, value: Any, name: str) -> Any:
        if isinstance(value, Enum):
            return name_of(type(value)), value.name
        if isinstance(value, PLAIN):
            return _whole(value)
        if not isinstance(value, tuple):
            if id(value) in self._met:
                return "met", self._met[id(value)][0]
            self._met[id(value)] = len(self._met), value  # held, so that no other has its id
        return self._new(value, name)

    def _new(self, value: Any, name: str) -> Any:
        match value:
            case Mapping():
                return "mapping", [(self.of(key, name), self.of(each, str(key))) for key, each in value.items()]
            case list() | tuple():
                return type(value).__name__, [self.of(each, name) for each in value]
            case set() | frozenset():
                return "set", sorted(repr(self.of(each, name)) for each in value)
            case ModuleType():
                return "module", value.__name__
            case BuiltinFunctionType():
                return "builtin", value.__qualname__, self.of(value.__self__, name)
            case FunctionType():
                return self._function(value)
            case MethodType():
                return "method", self.of(value.__func__, name), self.of(value.__self__, name)
            case functools.partial():
                return "partial", self.of(value.func, name), self.of(value.args, name), self.of(value.keywords, name)
            case _ if get_origin(value) is not None:  # `list[str]`, which stands among types, and is none
                return self._generic(value, name)
            case type():
                return self._class(value, name)
            case _:
                return self._object(value, name)

    def _generic(self, kind: Any, name: str) -> Any:
        return "type", str(kind)

    def _function(self, function: FunctionType) -> Any:
        code = function.__code__
        told = (source(code), code_of(code)) if code.co_name == "<lambda>" else source(code)  # a line may hold several
        return "function", told, *self._held_by(function)

    def _held_by(self, function: FunctionType) -> tuple[Any, ...]:
        closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        over = [(name, self.of(_content(cell, name), name)) for name, cell in closed]
        return over, self.of(function.__defaults__, "default"), self.of(function.__kwdefaults__, "default")

    def _class(self, kind: Any, name: str) -> Any:
        if issubclass(kind, dspy.Signature):
            types = [(field, str(info.annotation)) for field, info in kind.fields.items()]
            return "signature", self.of(kind.dump_state(), name), types
        return "class", [(name_of(each), _source_of_class(each)) for each in kind.__mro__[:-1]]

    def _object(self, value: Any, name: str) -> Any:
        kind = type(value)
        if isinstance(value, dspy.LM):
            return "lm", self.of(value.dump_state(), name)
        if isinstance(value, dspy.Example):
            return "example", self.of(dict(value.items()), name)
        held = _held(value)
        if held is None:
            return self._closed(value, name)
        if isinstance(value, dspy.Predict):
            held = {**{part: held.pop(part) for part in _OF_PREDICTORS}, **held}
            if not self._lms:
                del held["lm"]
        if isinstance(value, (dspy.Module, dspy.BaseLM)):
            held = {part: each for part, each in held.items() if part not in _WORKING}
        if _has_more(value):
            return "object", self.of(kind, name), self.of(held, name), self._made_of(value, name)
        return "object", self.of(kind, name), self.of(held, name)

    def _made_of(self, value: Any, name: str) -> Any:
        """What it is pickled as: its type, and what no attribute shows."""
        try:
            made = value.__reduce_ex__(4)
        except Exception:
            raise Untold(name) from None
        if isinstance(made, str):
            return made
        return [self.of(list(part) if isinstance(part, Iterator) else part, name) for part in made]

    def _closed(self, value: Any, name: str) -> Any:
        raise Untold(name)


def _whole(value: Any) -> str:
    """Its `repr`, of which Python cuts that of a long pattern."""
    long = isinstance(value, re.Pattern) and len(repr(value.pattern)) > _SHOWN_OF_PATTERN
    return f"{value!r} {value.pattern!r}" if long else repr(value)


def _content(cell: CellType, name: str) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty still
        raise Untold(name) from None


def _held(value: Any) -> dict[str, Any] | None:
    """The attributes of an object; None for one of whose inside nothing is seen."""
    slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
    if not slots and not hasattr(value, "__dict__"):
        return None
    return {**{slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}, **getattr(value, "__dict__", {})}


def _has_more(value: Any) -> bool:
    """Whether an object has a state of its own beside its attributes, as `random.Random` has."""
    own = any(how in vars(each) for each in type(value).__mro__[:-1] for how in ("__reduce__", "__reduce_ex__"))
    return own and hasattr(value, "__dict__") and not isinstance(value, (dspy.Module, dspy.BaseLM))


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slot for slot in ((slots,) if isinstance(slots, str) else slots) if slot not in ("__dict__", "__weakref__")]


def name_of(kind: type | FunctionType) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _compiled(kind: type) -> list[str]:
    found = [name_of(kind)]
    for name, value in vars(kind).items():
        if isinstance(code := getattr(value, "__code__", None), CodeType):
            found.append(code_of(code))
        elif isinstance(value, PLAIN) and not name.startswith("__"):
            found.append(f"{name} {_whole(value)}")
    return found
