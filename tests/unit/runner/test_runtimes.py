"""Which interpreter runs code of a version of Python, and which packages such code may need."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.errors import Invalid
from distill.rollouts.runtimes import check_packages, runtime_named, served


def interpreter(folder: Path, name: str, minor: str, **needs: list[str]) -> str:
    """Something that answers as an interpreter does, and counts how often it was asked."""
    path = folder / name
    said = json.dumps([minor, {"dspy": ["PyYAML>=6", "tqdm; python_version < '4'"], "PyYAML": [], "tqdm": [], **needs}])
    path.write_text(f"#!/bin/sh\necho asked >> {path}.log\ncat <<'END'\n{said}\nEND\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pythons(tmp_path: Path) -> dict[str, str]:
    return {
        "old": interpreter(tmp_path, "a", "3.11"),
        "new": interpreter(tmp_path, "b", "3.12", **{"scikit-learn": ["SciPy (>=1)"], "scipy": []}),
        "default": interpreter(tmp_path, "c", "3.11"),
        "gone": str(tmp_path / "nowhere"),
    }


def refused(*values: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as refusal:
        check_packages(*values)
    return refusal.value.code, refusal.value.message


def test_the_usual_one_comes_first_among_equals(pythons: dict[str, str]) -> None:
    assert [runtime_named(pythons, minor) for minor in ("3.11", "3.12", "")] == ["default", "new", "default"]
    assert served(pythons) == {"3.11", "3.12"}
    assert Path(f"{pythons['default']}.log").read_text().count("asked") == 1
    with pytest.raises(Invalid, match=r"of Python 3\.9, and this server runs programs under 3\.11, 3\.12$"):
        runtime_named(pythons, "3.9")


def test_one_that_comes_back_is_asked_again(pythons: dict[str, str], tmp_path: Path) -> None:
    assert served({"default": pythons["gone"]}) == set()
    interpreter(tmp_path, "nowhere", "3.13")
    assert served({"default": pythons["gone"]}) == {"3.13"}


def test_packages_are_those_that_dspy_and_the_allowed_ones_bring(pythons: dict[str, str]) -> None:
    check_packages(pythons, "3.12", ["pyyaml", "Tqdm"], [])
    check_packages(pythons, "3.12", ["scikit_learn", "scipy"], ["Scikit.Learn"])
    assert refused(pythons, "3.12", ["scipy", "scikit-learn"], [])[0] == "package_not_allowed"
    code, message = refused(pythons, "3.11", ["pandas"], ["pandas"])
    assert code == "package_not_installed"
    assert message == "packages: pandas is allowed, but not installed where programs of Python 3.11 run"
