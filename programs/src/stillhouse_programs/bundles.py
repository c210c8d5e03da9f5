"""Bundles that were unpacked in this process: their files on `sys.path`, and what their pickles hold.

In a runner alone, which is locked into its sandbox: what is unpacked here is code that somebody sent.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cloudpickle

from stillhouse_programs.spec_bundle import BUNDLE_MODULE, Bundle, BundlePickle, folders_above, parse_bundle
from stillhouse_programs.spec_reference import ReferenceFault, split_target

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass
class Unpacked:
    """One bundle. Its modules may import each other, and those of the other bundles here."""

    bundle: Bundle
    _metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def tops(self) -> list[str]:
        return self.bundle.tops

    def named(self, target: str) -> Callable[..., Any]:
        """What a target of the module of pickles names: what makes a program when it is called, or a metric. Raises ReferenceFault."""
        name = ".".join(split_target(target)[1])
        pickle = self.bundle.pickles.get(name)
        if pickle is None:
            known = ", ".join(sorted(self.bundle.pickles)) or "none"
            raise ReferenceFault("reference_not_found", f"the bundle has no pickle `{name}` (there are: {known})", "reference.target")
        if pickle.makes == "program":
            return partial(_loaded, pickle)
        if name not in self._metrics:
            self._metrics[name] = _loaded(pickle)
        found: Callable[..., Any] = self._metrics[name]
        return found


def _loaded(pickle: BundlePickle) -> Any:
    """The one place where anything is unpickled. Raises whatever the pickle likes."""
    return cloudpickle.loads(base64.b64decode(pickle.data))


class Bundles:
    """All bundles of a process share one folder, the last on `sys.path`: none takes the place of what is installed."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._opened: dict[str, Unpacked] = {}
        self._texts: dict[str, str] = {}

    def unpack(self, digest: str, document: Any, folder: Path) -> None:
        """Write a bundle's files below `folder`, the same one at each call. Raises ReferenceFault, SpecError."""
        if digest in self._opened:
            return
        bundle = parse_bundle(document)
        _check_python(bundle)
        _check_packages(bundle)
        self._check_names(bundle)
        self._write(bundle, folder)
        self._opened[digest] = Unpacked(bundle)

    def __contains__(self, digest: str) -> bool:
        return digest in self._opened

    def get(self, digest: str) -> Unpacked:
        """Raises ReferenceFault for one that was not unpacked."""
        if digest not in self._opened:
            raise ReferenceFault("bundle_not_found", "the bundle of this code is not here", "bundle")
        return self._opened[digest]

    def _check_names(self, bundle: Bundle) -> None:
        modules = _paths(self._texts)
        known = {name.partition(".")[0] for name in modules}
        for top in bundle.tops:
            if top not in known and _is_installed(top):
                message = f"the bundle's module `{top}` would take the place of an installed one: name yours otherwise"
                raise ReferenceFault("bundle_shadows", message, "bundle")
        paths = [path for path, text in bundle.files.items() if self._texts.get(path, text) != text]
        names = [name for name, path in _paths(bundle.files).items() if modules.get(name, path) != path]
        kinds = sorted(_folders(bundle.files) & self._texts.keys() | _folders(self._texts) & bundle.files.keys())
        if found := paths or names or kinds:
            message = (
                f"the bundles of a program and of its metric hold {found[0]} with other text: send one bundle for both, or keep the metric "
                "in modules of its own"
            )
            raise ReferenceFault("bundles_clash", message, "bundle")

    def _write(self, bundle: Bundle, folder: Path) -> None:
        if self._folder is None:
            self._folder = folder
            folder.mkdir(parents=True, exist_ok=True)
            sys.path.append(str(folder))
        try:
            for path, text in bundle.files.items():
                place = self._folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8", newline="")
        except OSError as error:  # code that ran here before may have done anything to the folder
            raise ReferenceFault("reference_failed", f"the bundle's files cannot be written: {error.strerror}", "bundle") from None
        self._texts.update(bundle.files)
        importlib.invalidate_caches()


UNPACKED = Bundles()
"""Those of this process: what is imported is the process's, too."""


def _paths(files: Iterable[str]) -> dict[str, str]:
    """The file of each module."""
    return {Bundle.module_of(path): path for path in files if path.endswith(".py")}


def _folders(paths: Iterable[str]) -> set[str]:
    return {folder for path in paths for folder in folders_above(path)}


def _check_python(bundle: Bundle) -> None:
    if bundle.python != PYTHON:
        raise ReferenceFault("python_not_served", f"the bundle is of Python {bundle.python}, and programs run under {PYTHON}", "bundle")


def _check_packages(bundle: Bundle) -> None:
    lacking = [name for name in bundle.packages if not _has_distribution(name)]
    if lacking:
        message = f"the bundle needs {', '.join(sorted(lacking))}, not installed where programs run; the server's operator can install it"
        raise ReferenceFault("package_not_installed", message, "bundle")


def _has_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _is_installed(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return True


def is_pickle(target: str) -> bool:
    """Whether a target is one of a bundle's pickles, not of its files."""
    return split_target(target)[0] == BUNDLE_MODULE
