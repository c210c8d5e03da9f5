"""The API of the integration tests, and the switch that breaks it.

With `SECURITY_MUTANTS=FILE` only the tests of records run, each with its record's mutant; how each ended is written to the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api.conftest import address, api, bare, lm, lm_url, tokens  # noqa: F401 - fixtures
from tests.security.mutants import MUTANTS

HERE = Path(__file__).parent
_OUT = os.environ.get("SECURITY_MUTANTS")
_ended: dict[str, list[str]] = {}


def _record(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("record")
    return mark.args[0] if mark else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _OUT:
        items[:] = [item for item in items if HERE in item.path.parents and _record(item) in MUTANTS]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if _OUT and call.when == "call":
        _ended.setdefault(str(_record(item)), []).append(report.outcome)  # type: ignore[attr-defined]
    return report


def pytest_sessionfinish() -> None:
    if _OUT:
        Path(_OUT).write_text(json.dumps(_ended), encoding="utf-8")


@pytest.fixture(autouse=True)
def mutant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> None:
    """Breaks the server before anything of it is built."""
    if _OUT:
        MUTANTS[str(_record(request.node))](monkeypatch)
