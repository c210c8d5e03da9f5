"""The database ends a transaction that stands idle for a minute; sorting many rows may take longer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from distill.db import Session, unit_of_work
from distill.execute import assemble
from tests.integration.execute.house import House, rows


def test_no_transaction_is_open_while_rows_are_sorted_and_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open: list[Session] = []
    seen: list[int] = []

    @contextmanager
    def watched() -> Iterator[Session]:
        with unit_of_work() as s:
            is_open.append(s)
            yield s
        is_open.pop()

    def spied(name: str) -> None:
        real = getattr(assemble, name)

        def spy(*given: Any) -> Any:
            seen.append(len(is_open))
            return real(*given)

        monkeypatch.setattr(assemble, name, spy)

    monkeypatch.setattr(assemble, "unit_of_work", watched)
    for name in ("settle", "validation_groups", "_write"):
        spied(name)
    job = house.compile(rows(4))
    assert job.status == "succeeded", job.error
    assert seen == [0, 0, 0]
