"""`make chaos`, with few jobs."""

import pytest

from tests.chaos.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_thirty_jobs_under_random_faults_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "30", "--seed", "4"]) == 0, capsys.readouterr().out
