"""What the log says of a work item that failed: its code, and nothing of rows, prompts or answers."""

from __future__ import annotations

import pytest

from tests.integration.execute.house import House, rows
from tests.support.scripted_lm import Fail

CANARY = "canary-8d13"


def test_a_failure_that_repeats_what_a_host_said_is_logged_by_its_code(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.teacher.answer = lambda ask: Fail(404, "model_not_found", f"No model for: {ask.text} {CANARY}")
    job = house.compile(rows(12))
    assert job.error is not None
    assert job.error["code"] == "model_not_found"
    assert CANARY in job.error["message"]
    (line,) = [record.message for record in caplog.records if "item_failed" in record.message]
    assert "model_not_found" in line
    assert CANARY not in caplog.text
