"""Threads that a program starts belong to the rollout that started them.

A thread begins without the context of whoever starts it (Python 3.14 makes it inherit on request), so a predictor called there would be
nobody's. dspy carries its settings into the threads of `dspy.Parallel`; this does it for `threading.Thread` and `ThreadPoolExecutor`.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dspy.dsp.utils.settings import settings

from stillhouse_programs.recorder import SETTING, Recorder

_DONE = "_stillhouse_inherits"


def inherit_rollouts() -> None:
    """Make every thread that is started, and every call that is handed to a pool, inside a rollout run in its context.

    For this process, once; outside of a rollout nothing changes.
    """
    if not hasattr(threading.Thread, _DONE):
        setattr(threading.Thread, _DONE, True)
        _wrap_start()
        _wrap_submit()


def _in_rollout() -> bool:
    return isinstance(settings.get(SETTING), Recorder)


def _wrap_start() -> None:
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if _in_rollout():
            context = contextvars.copy_context()
            thread.run = functools.partial(context.run, thread.run)  # type: ignore[method-assign]
        original(thread)

    threading.Thread.start = start  # type: ignore[method-assign,assignment]


def _wrap_submit() -> None:
    original: Any = ThreadPoolExecutor.submit

    def submit(pool: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not _in_rollout():
            future: Future[Any] = original(pool, function, *args, **kwargs)
            return future
        call = functools.partial(contextvars.copy_context().run, function)
        # Without a context, since the pool's thread may outlive the rollout that it was started in.
        return contextvars.Context().run(original, pool, call, *args, **kwargs)

    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign,assignment]
