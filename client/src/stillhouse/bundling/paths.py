"""A bundle of files and folders that somebody names, without importing any of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stillhouse.bundling.document import below, document, read_text
from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.imports import imported
from stillhouse.bundling.whose import Whose, distributions, whose


def from_paths(paths: Iterable[str | Path]) -> dict[str, Any]:
    """The document of a bundle. A folder with `__init__.py` is a package and keeps its name; of any other what is inside is taken.

    What the code imports is told with the versions that are installed here. Raises NotSendable.
    """
    files: dict[str, str] = {}
    for path in map(Path, paths):
        for name, file in _named(path):
            if name in files:
                raise NotSendable(f"{name} is there twice: once from {path}")
            files[name] = read_text(file)
    return document(files, needed(files))


def needed(files: dict[str, str]) -> dict[str, str]:
    """Distributions that the modules among `files` import, with their versions here."""
    own = {path.partition("/")[0].removesuffix(".py") for path in files}
    packages: dict[str, str] = {}
    for path, text in files.items():
        if path.endswith(".py"):
            module, is_package = module_of(path)
            for name in imported(text, module, is_package, path):
                if name.partition(".")[0] not in own and whose(name) is Whose.INSTALLED:
                    packages.update(distributions(name))
    return packages


def module_of(path: str) -> tuple[str, bool]:
    """`support/steps.py` is `support.steps`; `support/__init__.py` is `support`, a package."""
    name = path.removesuffix(".py").replace("/", ".")
    return (name.removesuffix(".__init__"), True) if name.endswith(".__init__") else (name, False)


def _named(path: Path) -> Iterable[tuple[str, Path]]:
    if not path.is_dir():
        yield path.name, path
        return
    root = path.parent if (path / "__init__.py").is_file() else path
    for file in below(path):
        yield file.relative_to(root).as_posix(), file
