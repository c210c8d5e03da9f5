"""Classes and functions: found again by their name, or sent as they are; and what the code of a function asks for."""

from __future__ import annotations

import dis
import importlib.util
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def by_reference(thing: Any) -> bool:
    """Whether a class or function is what its module has under its name. What a script, a notebook or a function has made is not."""
    found: Any = sys.modules.get(getattr(thing, "__module__", None) or "")
    if found is None or getattr(found, "__name__", "") == "__main__":
        return False
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is thing


def globals_used(function: FunctionType) -> dict[str, Any]:
    """The globals that a function reads, also in the functions inside of it."""
    names = dict.fromkeys(name for code in nested(function.__code__) for name in _globals(code))
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def imports_of(function: FunctionType) -> list[str]:
    """The modules that a function imports when it runs, which need not be there."""
    package = function.__globals__.get("__package__") or ""
    found = [absolute(name, package) for code in nested(function.__code__) for name in _imports(code)]
    return [name for name in found if name]


def absolute(name: str, package: str) -> str:
    """A module's full name; empty for a relative one that goes up too far, which would fail when it is run."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return ""


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code and all code inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def code_of(code: CodeType) -> str:
    """What the code does, without its place."""
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} {[_constant(each) for each in code.co_consts]}"


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return code_of(value)
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _imports(code: CodeType) -> Iterator[str]:
    """The names as they are written, `.words` for a relative one; of `from a import b` also `a.b`, whichever is a module."""
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, listed = constants[-2:]
            name = "." * level + instruction.argval
            yield name
            yield from (f"{name}.{each}" if instruction.argval else f"{name}{each}" for each in listed or ())
        elif instruction.opname.startswith(("LOAD_CONST", "LOAD_SMALL_INT")):
            constants.append(instruction.argval)


def _globals(code: CodeType) -> Iterator[str]:
    return (instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL")


def unwrapped(member: Any) -> list[Any]:
    """What a class holds, without what wraps it."""
    if isinstance(member, (staticmethod, classmethod)):
        return [member.__func__]
    if isinstance(member, property):
        return [each for each in (member.fget, member.fset, member.fdel) if each is not None]
    return [member]
