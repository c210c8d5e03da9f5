"""What `stillhouse-server doctor` found out about one thing, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

Level = Literal["well", "odd", "wrong"]
_MARKS: dict[Level, tuple[str, str]] = {"well": ("✓", "green"), "odd": ("!", "yellow"), "wrong": ("✗", "bold red")}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `odd` may be on purpose; `wrong` must be mended.
        detail: what there is.
        advice: what to do, unless it is well.
    """

    level: Level
    detail: str
    advice: str = ""


def well(detail: str) -> Finding:
    return Finding("well", detail)


def odd(detail: str, advice: str) -> Finding:
    return Finding("odd", detail, advice)


def wrong(detail: str, advice: str) -> Finding:
    return Finding("wrong", detail, advice)


def worst_of(findings: Iterable[Finding]) -> Finding:
    """Several looks at one thing as one line: all details, the advice of the worst level."""
    found = list(findings)
    level: Level = next((level for level in ("wrong", "odd") if any(each.level == level for each in found)), "well")
    advice = "; ".join(each.advice for each in found if each.level == level and each.advice)
    return Finding(level, ", ".join(each.detail for each in found), advice)


def as_table(findings: Iterable[tuple[str, Finding]]) -> Table:
    """A row for each, with the advice under what was found."""
    table = Table.grid(padding=(0, 2))
    for name, found in findings:
        mark, style = _MARKS[found.level]
        detail = Text(found.detail)
        if found.advice:
            detail.append(f"\n→ {found.advice}", style=style)
        table.add_row(Text(f"{mark} {name}", style=style), detail)
    return table
