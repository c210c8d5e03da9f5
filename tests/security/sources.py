"""Our code as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("app", "workers", "engines", "distill", "migrations", "stack", "programs/src", "client/src", "examples", "bench", "tools")
EXTRA: dict[str, str] = {}
"""What a mutant adds."""


def sources() -> Iterator[tuple[str, str]]:
    """Names and texts of all files but the migrations' versions."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "versions" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    yield from EXTRA.items()
