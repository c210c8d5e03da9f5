"""A runner whose work is to stop: at once, or, for a pause, as soon as what has begun is done."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distill.execute.work import StopReason, Work
from distill.rollouts import Runner
from distill.settings import get_settings

ASK_AGAIN_SECONDS = 0.25


@contextmanager
def halting(work: Work, runner: Runner) -> Iterator[None]:
    """While the block runs, the word to stop reaches the runner. Rollouts under way may end when the job is to pause, since their calls
    are paid; for anything else, or after `finish_seconds`, the runner is killed."""
    over = threading.Event()

    def wind_down() -> None:
        deadline = time.monotonic() + get_settings().timers.finish_seconds
        while not over.is_set():
            if time.monotonic() >= deadline:
                runner.kill()
                return
            runner.finish()  # again, since a request may just have been under way to it
            over.wait(ASK_AGAIN_SECONDS)

    def stop(reason: StopReason) -> None:
        if reason == "pause":
            threading.Thread(target=wind_down, name="wind-down", daemon=True).start()
        else:
            runner.kill()

    with work.telling(stop):
        try:
            yield
        finally:
            over.set()
