"""The end of a process that may end at any moment: what it has begun is undone or done again by the next one, so it waits for nothing."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import NoReturn

LAST_SECONDS = 10


def when_told(stop: Callable[[], None], seconds: int = LAST_SECONDS) -> None:
    """Have SIGTERM and SIGINT call `stop`. So many seconds later the process is gone, whatever it waits for: a database that hangs, a host
    that does not answer."""

    def told(*_: object) -> None:
        within(seconds)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)


def within(seconds: int = LAST_SECONDS) -> None:
    """Have the kernel end this process after so many seconds, whatever it waits for."""
    signal.alarm(seconds)


def end(code: int = 0) -> NoReturn:
    """At once: Python would wait for every thread of a pool, also for one that looks up a name that nobody answers for."""
    logging.shutdown()
    os._exit(code)
