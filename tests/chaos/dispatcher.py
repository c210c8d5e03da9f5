"""`python -m tests.chaos.dispatcher`: the real dispatcher, which a test can break, and which can die between sending and marking."""

from functools import partial

from distill.execute.hooks import crash_point
from distill.queue import send_hint
from tests.chaos import breaks
from workers import dispatcher

SENT = "dispatcher.sent"
"""The point behind a hint that was sent and is not yet marked as sent."""


def _send(queue: str) -> None:
    send_hint(queue)
    crash_point(SENT)


if __name__ == "__main__":
    breaks.install()
    dispatcher.Dispatcher = partial(dispatcher.Dispatcher, send=_send)  # type: ignore[misc, assignment]
    dispatcher.main()
