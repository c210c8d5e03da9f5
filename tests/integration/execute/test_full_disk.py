"""A disk that is full while jobs write their training rows: they fail for that reason and keep what was paid for; a retry goes on."""

import errno
import os

import pytest

from distill.db import unit_of_work
from distill.jobs import retrying
from distill.settings import get_settings
from tests.integration.execute.house import House, rows

CALLS = 24
"""Of the teacher, for twelve examples."""


@pytest.mark.slow
def test_the_job_says_so_and_its_retry_pays_for_nothing_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_TIMERS__RETRY_BASE_SECONDS", "0.01")
    get_settings.cache_clear()
    job_id, sync = house.submit(rows(12)), os.fsync

    def refuse(handle: int) -> None:
        """Once the teacher has answered: what is written then are the rows."""
        if len(house.teacher.calls) >= CALLS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        job = house.run(job_id)
    assert (job.status, (job.error or {}).get("code"), (job.error or {}).get("retryable")) == ("failed", "storage", True)
    assert (job.error or {}).get("step") == "prepare"
    assert str(house.folder) not in str(job.error)
    assert list((house.folder / "blobs" / "incoming").iterdir()) == []
    assert house.compile(rows(8)).status == "succeeded", "the worker goes on with other jobs"

    with unit_of_work() as s:
        retrying.retry(s, house.project_id, job_id)
    job = house.run(job_id)
    assert job.status == "succeeded", job.error
    assert len(house.teacher.calls) == len({call.digest for call in house.teacher.calls})
