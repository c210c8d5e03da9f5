"""What a distribution imports it also declares: a package that is there by accident is missing on the next machine."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OURS = {"app", "workers", "engines", "distill", "migrations", "stack", "stillhouse", "stillhouse_programs"}

# Belong to a declared package and come in its version only: fastapi's, celery's, pydantic's own half.
HALVES = {"starlette", "kombu", "pydantic_core"}

# distribution's folder → packages in it, and imports that need no declaration there
DISTRIBUTIONS: dict[str, tuple[list[str], set[str]]] = {
    ".": (["app", "workers", "engines", "distill", "migrations", "stack"], set()),
    "programs": (["programs/src/stillhouse_programs"], {"uvloop"}),  # the runner takes it where the server has installed it
    "client": (["client/src/stillhouse"], {"dspy"}),  # the extra brings it through stillhouse-programs
}


def imported(folder: Path) -> set[str]:
    """Top-level names of all imports, those inside functions too."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - OURS


def declared(folder: Path) -> set[str]:
    """Normalised names of all requirements, extras included."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(entry for extra in project["optional-dependencies"].values() for entry in extra)]
    return {normal(re.split(r"[\s\[<>=!~;]", entry, maxsplit=1)[0]) for entry in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_every_import_is_declared(folder: str) -> None:
    packages, excused = DISTRIBUTIONS[folder]
    homes = packages_distributions()
    requirements = declared(ROOT / folder)
    names = set().union(*(imported(ROOT / package) for package in packages)) - excused - HALVES
    missing = {name for name in names if not requirements & {normal(home) for home in homes.get(name, [name])}}
    assert not missing, f"declare in {folder}/pyproject.toml: {sorted(missing)}"
