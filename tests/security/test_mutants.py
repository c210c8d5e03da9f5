"""Every record is in the table, and its test can fail: the server is broken as its peer was, one switch a record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.mutants import MUTANTS
from tests.security.records import RECORDS, RULES

HERE = Path(__file__).parent
WARNED = "ignore:assertions not in test modules"
"""By pytest under `-O`, of helpers: none of their assertions is needed."""
DEBRIS = ("-p", "no:unraisableexception", "-p", "no:threadexception")
"""What one broken server leaves open or running is told of nobody: pytest would tell it of whichever test is in its setup then."""
SHOWN = {name for name, record in RECORDS.items() if record.left_out is None} | set(RULES)


def test_every_record_is_shown_and_broken_or_says_why_not() -> None:
    marked = {name for path in HERE.glob("test_*.py") for name in re.findall(r'mark\.record\("([^"]+)"\)', path.read_text())}
    assert marked == SHOWN
    assert set(MUTANTS) == SHOWN
    assert all(len(record.left_out) > 20 for record in RECORDS.values() if record.left_out is not None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_mutant_is_caught(tmp_path: Path) -> None:
    """Without assertions of the server (`-O`), so that this shows too that those of the tests are still there."""
    out = tmp_path / "ended.json"
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", *DEBRIS, "-W", WARNED, str(HERE)]
    done = subprocess.run(command, env={**os.environ, "SECURITY_MUTANTS": str(out)}, capture_output=True, text=True, check=False)
    ended: dict[str, list[str]] = json.loads(out.read_text()) if out.exists() else {}
    assert set(ended) == SHOWN, done.stdout[-2000:]
    assert {name for name, outcomes in ended.items() if "failed" not in outcomes} == set()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_suite_holds_without_assertions_of_the_server() -> None:
    """`-O` takes `assert` out of the server; pytest rewrites those of the tests, so that they still look."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", WARNED, "-m", "not slow", str(HERE)]
    environment = {name: value for name, value in os.environ.items() if name != "SECURITY_MUTANTS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
