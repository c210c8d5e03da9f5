"""Tables that stay readable where they are shown: no id, time or word is broken, and in a pipe a row is a line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 2
_LEAST = 24  # a last column this wide may wrap; a narrower one would be a pillar of syllables

Row = Sequence[str]


def draw(console: Console, titles: Row, rows: Sequence[Row]) -> None:
    """On a terminal, the columns for which a line has no room stand under their row."""
    if not console.is_terminal:
        rows = [[" ".join(cell.splitlines()) for cell in row] for row in rows]
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in zip(titles, *rows, strict=True)]
    beside = _how_many(widths, console.width) if console.is_terminal else len(titles)
    if beside == len(titles) and console.is_terminal:
        console.print(_table(titles, rows))
        return
    console.print(Text(_line(titles[:beside], widths), style="bold"), soft_wrap=True)
    for row in rows:
        console.print(Text(_line(row[:beside], widths)), soft_wrap=True)
        under = [Text.assemble((f"{title} ", "dim"), cell) for title, cell in zip(titles[beside:], row[beside:], strict=True) if cell]
        if under:
            console.print(Padding(Text("  ").join(under), (0, 0, 0, _GAP)))


def _how_many(widths: Sequence[int], room: int) -> int:
    """Columns that stand beside each other."""
    used = 0
    for n, width in enumerate(widths):
        if used + width > room:
            wraps = n == len(widths) - 1 and room - used >= _LEAST
            return n + wraps or 1
        used += width + _GAP
    return len(widths)


def _table(titles: Row, rows: Sequence[Row]) -> Table:
    """Only its last column may need more than one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, title in enumerate(titles, 1):
        table.add_column(title, overflow="fold", no_wrap=n < len(titles))
    for row in rows:
        table.add_row(*map(Text, row))  # what an LM wrote is neither markup nor an emoji's name
    return table


def _line(cells: Row, widths: Sequence[int]) -> str:
    padded = [cell if "\n" in cell else set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=False)]
    return (" " * _GAP).join(padded).rstrip()
