"""A value that one caller reads for all others, while its read hangs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.fresh import Fresh
from distill.errors import Unavailable

LONG = 3600.0


def test_who_waits_for_a_read_that_hangs_gets_an_error_in_time() -> None:
    fresh = Fresh[str](most_seconds=0.0)
    reading, released = threading.Event(), threading.Event()

    def hang() -> str:
        reading.set()
        released.wait()
        return "late"

    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(fresh.get, LONG, hang)
        reading.wait()
        with pytest.raises(Unavailable, match="try again"):
            fresh.get(LONG, lambda: "never read")
        assert fresh.get(LONG, lambda: "read anew") == "read anew"
        released.set()
        assert hanging.result() == "late"
    assert fresh.get(LONG, lambda: "never read") == "read anew"
