"""Which part of a value is in the way of sending it, by the name that it is held under."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from stillhouse.bundling.code import by_reference, globals_used, unwrapped
from stillhouse.bundling.whose import Whose, whose


def culprit(value: Any, name: str, fits: Callable[[Any], bool]) -> tuple[str, Any]:
    """The innermost part that does not fit, and where it is: `program.tools[0]`, `metric → judge.lm`."""
    met: dict[int, Any] = {}
    while (inner := next(_unfit(value, name, fits, met), None)) is not None:
        name, value = inner
    return name, value


def _unfit(value: Any, name: str, fits: Callable[[Any], bool], met: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    for below, part in parts(value):
        if id(part) not in met:
            met[id(part)] = part  # held, so that no other has its id
            if not fits(part):
                yield f"{name}{below}", part


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each with what its place adds to the name. What is found by its name elsewhere holds nothing."""
    match value:
        case Mapping():
            yield from ((f"[{key!r}]", each) for key, each in value.items())
        case list() | tuple() | set() | frozenset():
            yield from ((f"[{number}]", each) for number, each in enumerate(value))
        case functools.partial():
            yield from (("", each) for each in (value.func, value.args, value.keywords))
        case MethodType():
            yield from (("", each) for each in (value.__func__, value.__self__))
        case ModuleType():
            return
        case FunctionType():
            yield from _of_function(value)
        case type():
            yield from _of_class(value)
        case _:
            yield from _of_object(value)


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if by_reference(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _content(cell, f" → {name}")
    yield from ((f" → {name}", each) for name, each in globals_used(function).items())
    yield from (("", each) for each in (function.__defaults__, function.__kwdefaults__) if each)


def _content(cell: Any, name: str) -> Iterator[tuple[str, Any]]:
    try:
        yield name, cell.cell_contents
    except ValueError:  # it is empty still
        return


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    if not by_reference(kind):
        yield from (("", base) for base in kind.__bases__)
        yield from ((f".{name}", each) for name, member in vars(kind).items() for each in unwrapped(member))


def _of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """A library's object, such as a client, is one thing to its user, whatever is in it."""
    home = type(value).__module__
    if home.partition(".")[0] != "dspy" and whose(home) not in (Whose.OWN, Whose.NOBODYS):
        return
    held = value.__getstate__() if hasattr(value, "__getstate__") else getattr(value, "__dict__", None)
    for state in held if isinstance(held, tuple) else (held,):
        if isinstance(state, dict):
            yield from ((f".{name}", each) for name, each in state.items())
    yield "", type(value)
