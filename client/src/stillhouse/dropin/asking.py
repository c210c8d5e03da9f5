"""What is to become of a job after Ctrl-C."""

from __future__ import annotations

import sys


def cancel_wanted(job_id: str) -> bool:
    """Whether somebody at a terminal says so. A notebook and a script without a terminal are not asked: there nothing is cancelled.

    Another Ctrl-C at the question is no answer, and neither is the end of the input.
    """
    if not _at_a_terminal():
        return False
    try:
        print(f"\nCancel {job_id}, or leave it running? [c/L] ", end="", file=sys.stderr, flush=True)
        return input().strip().lower() in ("c", "cancel")
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        return False


def _at_a_terminal() -> bool:
    """The question goes to standard error, and its answer comes from standard input; a notebook's are no terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
