"""The caller's own modules as files, with all of their own that they import, and the distributions that they need."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from stillhouse.bundling.changed import changed
from stillhouse.bundling.document import below, read_text
from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.imports import imported
from stillhouse.bundling.whose import Whose, distributions, find, whose

More = Sequence["str | Path | ModuleType"]
"""Modules, by name or as they are, and files and folders, that are sent beside what was found."""


_IMPORTED: dict[str, tuple[ModuleSpec, str, list[str]]] = {}
"""By module: how it was imported, its text when it was first read afterwards, and what it imports. A reload makes another spec."""


@dataclass
class Sources:
    """`as_imported`: the files only tell apart what this process runs. A module whose file is edited keeps its text until it is imported
    anew; one that was edited before its file was read is like no other. Otherwise both are refused."""

    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    as_imported: bool = False
    _met: set[str] = field(default_factory=set)

    def add(self, names: Iterable[str]) -> None:
        """Modules, those above them, and what all of these import. Raises NotSendable."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in self._met:
                continue
            self._met.add(name)
            owner = whose(name)
            if owner is Whose.INSTALLED:
                self.packages.update(distributions(name))
            elif owner is Whose.OWN:
                waiting += [*_above(name), *self._read(name)]

    def add_more(self, more: More) -> None:
        """Raises NotSendable for what is neither a module nor a file."""
        for each in more:
            if isinstance(each, ModuleType):
                self._require_own(each.__name__)
            elif isinstance(each, Path) or Path(each).exists():
                self._add_path(Path(os.path.abspath(each)))
            else:
                self._require_own(each)

    def _require_own(self, name: str) -> None:
        if whose(name) is not Whose.OWN:
            raise NotSendable(f"ship_code: {name} is neither a file nor a module of your own")
        self.add([name])

    def _add_path(self, path: Path) -> None:
        root = _root(path)
        for file in below(path) if path.is_dir() else [path]:
            self.files[file.relative_to(root).as_posix()] = read_text(file)

    def _read(self, name: str) -> list[str]:
        """Take a module's text; what it imports. A package without `__init__.py` has none."""
        spec = find(name)
        if spec is None or not spec.has_location or spec.origin is None:
            return []
        is_package = spec.submodule_search_locations is not None
        path = f"{name.replace('.', '/')}{'/__init__' if is_package else ''}.py"
        if not spec.origin.endswith(".py"):
            raise NotSendable(f"{name} is no Python source ({Path(spec.origin).name}): only text is sent")
        if self.as_imported and (known := _IMPORTED.get(name)) is not None and known[0] is spec:
            _, self.files[path], names = known
            return names
        text = read_text(Path(spec.origin))
        names = imported(text, name, is_package, path)
        self.files[path] = self._checked(sys.modules.get(name), path, text)
        if self.as_imported:
            _IMPORTED[name] = spec, self.files[path], names
        return names

    def _checked(self, module: ModuleType | None, path: str, text: str) -> str:
        if module is None or (function := changed(module, text)) is None:
            return text
        if self.as_imported:
            return secrets.token_hex(16)  # no text says what it holds
        raise NotSendable(f"{path} was changed since it was imported ({function} is another there): import it anew, then call again")


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _root(path: Path) -> Path:
    """The nearest folder above it that Python imports from: so it lies beside its modules as it does here."""
    roots = [folder for folder in (Path(os.path.abspath(entry)) for entry in sys.path) if folder in path.parents]
    if not roots:
        raise NotSendable(f"ship_code: {path} is not there, or lies in no folder that Python imports from")
    return max(roots, key=lambda folder: len(folder.parts))
