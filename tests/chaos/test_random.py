"""`make chaos`, with few jobs."""

import re

import pytest

from tests.chaos.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_thirty_jobs_under_random_faults_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With this seed a trainer is killed at a checkpoint, which a run may miss."""
    status, shown = main(["--runs", "30", "--seed", "1"]), capsys.readouterr().out
    assert status == 0, shown
    assert "kill -9 of a trainer at a checkpoint 1" in " ".join(re.sub("│", " ", shown).split()), shown
