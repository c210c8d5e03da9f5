"""Live programs and metrics as one bundle: by value where they are of a script or a notebook, else with the modules that they live in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.bundling.document import document
from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.pickling import Pickled
from stillhouse.bundling.sources import More, Sources
from stillhouse.bundling.whose import Whose, whose


@dataclass(frozen=True)
class Collected:
    """A document for `client.bundles.create`. `by_value` names classes and functions that travel as code."""

    document: dict[str, Any]
    by_value: list[str]


def collect(parts: Mapping[str, Pickled], more: More = (), *, as_imported: bool = False) -> Collected:
    """Raises NotSendable for code that cannot go to a server. `as_imported`: see `Sources`."""
    modules = sorted({name for part in parts.values() for name in part.modules})
    if unknown := [name for name in modules if whose(name) is Whose.NOBODYS]:
        raise NotSendable(f"module {unknown[0]} was made at run time: there is no file of it to send")
    sources = Sources(as_imported=as_imported)
    sources.add([*modules, *sorted(name for part in parts.values() for name in part.asked_for)])
    sources.add_more(more)
    made = document(sources.files, sources.packages, {name: part.part() for name, part in parts.items()})
    return Collected(made, list(dict.fromkeys(name for part in parts.values() for name in part.by_value)))
