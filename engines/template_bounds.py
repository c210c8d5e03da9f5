"""What a chat template may cost. It runs no code, but it may loop, and it may make much of little."""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jinja2 import TemplateError

SECONDS = 10.0
"""Of processor time for one conversation; of a slow machine, too, it takes milliseconds."""
MEGABYTES = 1024
CHARACTERS = 8_000_000
_PAGE = resource.getpagesize()


class TooCostly(TemplateError):
    """A template takes more than it may."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TooCostly when what is rendered in the block takes too long or too much memory.

    Only a process's main thread can be interrupted; trainer and token counter render in theirs. What even that does not stop, one huge
    number for instance, ends the process.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        yield
        return
    memory, processor = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)
    handler = signal.signal(signal.SIGVTALRM, _stop)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_within(_address_space() + (MEGABYTES << 20), memory), memory[1]))
        resource.setrlimit(resource.RLIMIT_CPU, (_within(_processor_seconds() + int(2 * SECONDS) + 2, processor), processor[1]))
        try:
            # Again and again: what the first one raises may be lost, in a callback of the garbage collector for instance.
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS / 4)
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except MemoryError:
        raise TooCostly(f"it takes more than {MEGABYTES} MB of memory") from None
    finally:  # apart from the timer's end: a timer that runs out just then raises there, and the process keeps no limit of a template
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, memory)
        resource.setrlimit(resource.RLIMIT_CPU, processor)


def check_length(text: str) -> None:
    """Raises TooCostly for more than any model reads: tokens take many times the room of their text."""
    if len(text) > CHARACTERS:
        raise TooCostly(f"it makes {len(text):,} characters, and at most {CHARACTERS:,} are read")


def _stop(_: int, __: FrameType | None) -> None:
    raise TooCostly(f"it takes more than {SECONDS:g} s of processor time")


def _within(wanted: int, limits: tuple[int, int]) -> int:
    return min([wanted, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * _PAGE


def _processor_seconds() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime)
