"""What the workers and the dispatcher of a test do wrong on purpose, one thing for each invariant, while `World.broken` says so.

Loaded by `tests.chaos.worker` and `tests.chaos.dispatcher` alone: the server itself has no such switch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from distill.jobs import claims

_TELL = text("SELECT set_config('chaos.told', :told, true)")


def is_broken(name: str) -> bool:
    return Path(os.environ["STILLHOUSE_HOME"], "broken", name).exists()


def tell_fences() -> None:
    """Whoever ends an item says by which fence, for the audit: no fault, but how a stale publish is known."""
    for name in ("publish", "fail"):
        setattr(claims, name, _telling(getattr(claims, name)))


def _telling(original: Callable[..., Any]) -> Callable[..., Any]:
    def told(s: Any, claim: Any, *values: Any, **named: Any) -> Any:
        s.execute(_TELL, {"told": f"{claim.item_id}:{claim.fence}"})
        return original(s, claim, *values, **named)

    return told


def install() -> None:
    """Put each fault in its place; it does nothing until its switch is on."""
