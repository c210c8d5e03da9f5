"""Whether a module is still what its file says: the server gets the file, and this process runs what it was."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from stillhouse.bundling.code import nested, unwrapped


def changed(module: ModuleType, text: str) -> str | None:
    """The name of a function of the module that its text does not have; None where it has them all, or nobody can say.

    Values of globals are not looked at. A loader that does not say how it compiles, as pytest's for tests, rewrites what it loads.
    """
    origin = str(getattr(module.__spec__, "origin", ""))
    loader: Any = getattr(module.__spec__, "loader", None)
    if not hasattr(loader, "source_to_code"):
        return None
    known = set(nested(loader.source_to_code(text.encode(), origin)))
    for function in _functions(module):
        if function.__code__.co_filename == origin and function.__code__ not in known:
            return function.__qualname__
    return None


def _functions(holder: Any) -> Iterator[FunctionType]:
    name = holder.__name__ if isinstance(holder, ModuleType) else holder.__module__
    for member in list(vars(holder).values()):
        for each in unwrapped(member):
            inner = getattr(each, "__wrapped__", each)
            if getattr(inner, "__module__", None) != name:
                continue
            if isinstance(inner, FunctionType):
                yield inner
            elif isinstance(inner, type) and inner is not holder:
                yield from _functions(inner)
