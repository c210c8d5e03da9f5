"""Text between progress bars: what is written makes the bars step aside, and they stand below it again."""

from __future__ import annotations

import io
from typing import IO, TextIO, cast

from rich.console import Console
from tqdm.auto import tqdm


def console(out: TextIO) -> Console:
    """A console on the terminal where tqdm shows its bars; `out` is that terminal's standard output."""
    return Console(file=cast("IO[str]", _AroundBars(out)))


class _AroundBars(io.TextIOBase):
    def __init__(self, out: TextIO) -> None:
        self._out = out

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._out.encoding

    def write(self, text: str) -> int:
        tqdm.write(text, file=self._out, end="")
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def fileno(self) -> int:
        return self._out.fileno()

    def isatty(self) -> bool:
        return self._out.isatty()
