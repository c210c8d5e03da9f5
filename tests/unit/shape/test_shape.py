"""Rules about the form of the code that no linter knows. Each has one reason and one way out, given in its message."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ("app", "workers", "engines", "distill", "migrations", "stack", "programs/src", "client/src", "examples", "bench", "tools")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# The only code that ends a transaction.
COMMITS_IN = {"distill/db.py", "migrations/env.py"}


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.py") if "versions" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def commits(source: str) -> list[int]:
    """Lines that call `.commit()`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "commit"]


def long_functions(source: str) -> list[str]:
    found = []
    for function in functions(ast.parse(source)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > MAX_FUNCTION_LINES:
            found.append(f"{function.name} ({length} lines)")
    return found


def sleeps(source: str) -> list[int]:
    """Lines that call `time.sleep`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if ast.unparse(call.func) == "time.sleep"]


def test_no_file_outgrows_its_reader() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files(*SOURCES, "tests")}
    long = {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}
    assert not long, f"over {MAX_FILE_LINES} lines; split by what changes together: {long}"


def test_no_function_outgrows_its_reader() -> None:
    long = {name_of(path): found for path in python_files(*SOURCES, "tests") if (found := long_functions(path.read_text()))}
    assert not long, f"over {MAX_FUNCTION_LINES} lines; name the parts: {long}"


def test_only_the_unit_of_work_commits() -> None:
    found = {name_of(path): lines for path in python_files(*SOURCES) if (lines := commits(path.read_text()))}
    stray = {name: lines for name, lines in found.items() if name not in COMMITS_IN}
    assert not stray, f"one request or one publish is one transaction; open distill.db.unit_of_work() at the edge instead: {stray}"


def test_nothing_sleeps() -> None:
    found = {name_of(path): lines for path in python_files(*SOURCES) if (lines := sleeps(path.read_text()))}
    assert not found, f"a sleeping thread cannot be told to stop; wait on an Event with a timeout: {found}"


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (commits, "def save(session):\n    session.commit()\n"),
        (sleeps, "import time\ntime.sleep(1)\n"),
        (long_functions, "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    ],
)
def test_each_rule_can_be_broken(check, source: str) -> None:  # type: ignore[no-untyped-def]
    assert check(source)
