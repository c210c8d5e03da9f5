"""The codes that metrics count: all that the server itself gives to a job's error."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from distill.jobs import fault_codes

DISTILL = Path(fault_codes.__file__).parents[1]


def codes() -> Iterator[str]:
    for file in DISTILL.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Reason", "JobFault", "Troubled"):
                for value in (*node.args[:1], *(word.value for word in node.keywords if word.arg == "code")):
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value


def test_every_code_of_the_server_is_known() -> None:
    found = set(codes())
    assert "no_rows_kept" in found
    assert found <= fault_codes.KNOWN
