"""README.md's table of faults: each one that must be shown is, by a test that exists."""

import ast
import re
from collections.abc import Iterator

from tests.chaos.world import ROOT

_ROW = re.compile(r"^\| (\d+) \| .* \| `(tests/[\w/]+\.py)::([\w:]+)` \|$", re.MULTILINE)
SHOWN = {*range(1, 5), 6, 7, 9, 10, *range(13, 20), 23, 24, 25, 27, 28, 29, 32, *range(36, 40), 46, 58, 59, 60, 64}
TABLE = (ROOT / "tests/chaos/README.md").read_text()


def names_in(path: str) -> Iterator[str]:
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def test_every_fault_that_must_be_shown_is() -> None:
    assert {int(fault) for fault, _, _ in _ROW.findall(TABLE)} >= SHOWN


def test_every_named_test_exists() -> None:
    named = _ROW.findall(TABLE)
    assert len(named) == TABLE.count("\n| ") - 2, "a row does not have the form of the others"
    assert [f"{path}::{name}" for _, path, name in named if name not in names_in(path)] == []


def test_every_scenario_is_in_the_table() -> None:
    places = [*ROOT.glob("tests/chaos/test_scenarios.py"), *ROOT.glob("tests/chaos/test_slow_*.py")]
    files = [place.relative_to(ROOT).as_posix() for place in places]
    scenarios = {f"{path}::{name}" for path in files for name in names_in(path) if name.startswith("test_")}
    assert scenarios <= {f"{path}::{name}" for _, path, name in _ROW.findall(TABLE)}
