"""What `unit_of_work` does around a commit."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from distill.db import on_commit, unit_of_work

pytestmark = pytest.mark.usefixtures("database")


def test_a_call_that_fails_after_the_commit_is_logged_and_the_next_one_runs() -> None:
    called = list[str]()

    def fail() -> None:
        raise ValueError("the exporter is gone")

    with capture_logs() as logs, unit_of_work() as s:
        s.execute(text("SELECT 1"))
        on_commit(s, fail)
        on_commit(s, lambda: called.append("second"))
    assert called == ["second"]
    assert [line["event"] for line in logs] == ["call_after_commit_failed"]
