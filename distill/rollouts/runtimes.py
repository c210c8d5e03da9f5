"""What the interpreters of runtimes are: their minor version, and the packages that are installed for each."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from distill.errors import Invalid

DEFAULT = "default"
_ASK_SECONDS = 60.0
# Extras are what a package may bring, not what it brings.
_ASK = """
import json, sys
from importlib.metadata import distributions
found = {each.metadata["Name"]: [one for one in each.requires or () if "extra ==" not in one] for each in distributions()}
print(json.dumps(["%d.%d" % sys.version_info[:2], found]))
"""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Runtime:
    """`python` is its minor version, as `3.11`; `brings` are the packages that each installed one needs, by normal name."""

    python: str
    brings: Mapping[str, tuple[str, ...]]

    def with_all_they_bring(self, names: Iterable[str]) -> set[str]:
        """Packages, and what they need, and what that needs."""
        found, left = set[str](), [_normal(name) for name in names]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.brings.get(name, ())
        return found


_known: dict[str, Runtime] = {}


def runtime_of(python: str) -> Runtime | None:
    """An interpreter that answers is asked once for each process; None for one that does not run."""
    if python not in _known and (found := _asked(python)) is not None:
        _known[python] = found
    return _known.get(python)


def _asked(python: str) -> Runtime | None:
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK], capture_output=True, check=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL, env={}
        )
        minor, found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Runtime(minor, {_normal(name): tuple(_names(needs)) for name, needs in found.items() if name})


def _names(needs: Iterable[str]) -> Iterable[str]:
    return (_normal(match[0]) for match in map(_NAME.match, needs) if match)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_named(pythons: Mapping[str, str], python: str) -> str:
    """The name of the runtime that runs a minor version, the usual one first; the usual one where it is empty.

    Raises Invalid, which names those that are served.
    """
    if not python:
        return DEFAULT
    minors = _minors(pythons)
    for name in sorted(minors, key=lambda name: name != DEFAULT):
        if minors[name] == python:
            return name
    there = ", ".join(sorted(set(minors.values()), key=_as_numbers)) or "none"
    message = f"the code is of Python {python}, and this server runs programs under {there}"
    raise Invalid(message, code="python_not_served", param="python")


def served(pythons: Mapping[str, str]) -> set[str]:
    """The minor versions that programs may be of."""
    return set(_minors(pythons).values())


def _minors(pythons: Mapping[str, str]) -> dict[str, str]:
    """By the names of the runtimes that run."""
    return {name: known.python for name, python in pythons.items() if (known := runtime_of(python)) is not None}


def _as_numbers(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split("."))


def check_packages(pythons: Mapping[str, str], python: str, needed: Collection[str], allowed: Collection[str]) -> None:
    """That code of `python` may have what it needs: what dspy brings, and what the operator allows. Raises Invalid."""
    runtime = runtime_of(pythons[runtime_named(pythons, python)])
    assert runtime is not None  # noqa: S101 - for the type checker; it has been found by its version
    may = runtime.with_all_they_bring(["dspy", "stillhouse-programs", *allowed])
    if refused := sorted(name for name in needed if _normal(name) not in may):
        message = (
            f"packages: code may import what dspy brings and what the operator allows; {', '.join(refused)} is not among that "
            "(`packages` in [bundles] of stillhouse.toml)"
        )
        raise Invalid(message, code="package_not_allowed", param="packages")
    if lacking := sorted(name for name in needed if _normal(name) not in runtime.brings):
        message = f"packages: {', '.join(lacking)} is allowed, but not installed where programs of Python {python} run"
        raise Invalid(message, code="package_not_installed", param="packages")
