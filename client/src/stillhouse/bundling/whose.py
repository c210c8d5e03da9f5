"""Whose a module is: an installed distribution's, or the caller's own.

The caller's own are those whose file lies outside of `site-packages`, which a package installed with `pip install -e` is too: it is sent.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

_INSTALLED = frozenset({"site-packages", "dist-packages"})


class Whose(Enum):
    """`THERE` is wherever bundles are opened: what comes with Python, and what opens them. `NOBODYS` is a name that no module has here."""

    THERE = "there"
    INSTALLED = "installed"
    OWN = "own"
    NOBODYS = "nobody's"


def find(name: str) -> ModuleSpec | None:
    """Where a module comes from; None where there is none, or where it was made at run time. Packages above it may get imported."""
    if (module := sys.modules.get(name)) is not None:
        return getattr(module, "__spec__", None)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def whose(name: str) -> Whose:
    """Of a module by its full name. Of an installed package nothing is imported for it."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "stillhouse_programs":
        return Whose.THERE
    if top == "stillhouse":
        return Whose.INSTALLED  # also where it is installed for editing
    found = _by_place(find(top))
    if found is not Whose.OWN or top == name:
        return found
    return _by_place(find(name))


def _by_place(spec: ModuleSpec | None) -> Whose:
    """A package without `__init__.py` may lie in several places: what is below it then says."""
    if spec is None:
        return Whose.NOBODYS
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    if not places:
        return Whose.THERE
    return Whose.INSTALLED if all(_INSTALLED & set(Path(place).parts) for place in places) else Whose.OWN


def distributions(name: str) -> dict[str, str]:
    """The distribution that an installed module belongs to, with its version; of a package that several share, those with the module."""
    found = list(dict.fromkeys(_distributions().get(name.partition(".")[0], [])))
    if len(found) > 1:
        found = [each for each in found if _holds(each, name)]
    return {each: metadata.version(each) for each in found}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _holds(distribution: str, name: str) -> bool:
    path = name.replace(".", "/")
    return any(str(file).startswith((f"{path}/", f"{path}.")) for file in metadata.files(distribution) or ())
