"""The limits of a budget as options of the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime

import typer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NONE = "none"
"""Takes a limit away."""


def parse_seconds(text: str) -> float:
    """`90`, `90s`, `15m`, `3h`, `1d` → seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise typer.BadParameter("a number with s, m, h or d, such as 90s or 3h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def parse_whole(text: str) -> int | None:
    """A whole number, or `none`."""
    if text == NONE:
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"a whole number, or {NONE}")
    return int(text)


def parse_dollars(text: str) -> float | None:
    """An amount, or `none`."""
    if text == NONE:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text) is None:
        raise typer.BadParameter(f"US dollars such as 2.5, or {NONE}")
    return float(text)


def parse_deadline(text: str) -> int | None:
    """`3h` (from now) or a date with its time (the local one, unless it names a zone) → Unix seconds; `none` → None."""
    if text == NONE:
        return None
    if re.fullmatch(r"\d+(\.\d+)?[smhd]", text):
        return int(time.time() + parse_seconds(text))
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise typer.BadParameter(f"a time such as 2027-01-31T18:00, how long from now (3h), or {NONE}") from None


def budget(max_calls: str | None, max_tokens: str | None, max_cost_usd: str | None, deadline: str | None) -> dict[str, int | float | None]:
    """Those that were given."""
    given: dict[str, int | float | None] = {}
    if max_calls is not None:
        given["max_calls"] = parse_whole(max_calls)
    if max_tokens is not None:
        given["max_tokens"] = parse_whole(max_tokens)
    if max_cost_usd is not None:
        given["max_cost_usd"] = parse_dollars(max_cost_usd)
    if deadline is not None:
        given["deadline"] = parse_deadline(deadline)
    return given
