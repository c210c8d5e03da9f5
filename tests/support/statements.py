"""What is sent to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from distill.db import Door, engine


@contextmanager
def counted(door: Door = "worker") -> Iterator[list[str]]:
    """The statements that are sent while the block runs."""
    sent = list[str]()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine(door), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(door), "before_cursor_execute", note)
