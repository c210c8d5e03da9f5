"""The rungs of the sandbox with parts left out, to see that the escape suite notices. Nothing here is part of the server."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence

from distill.sandbox import Rung
from distill.sandbox.rungs import Place

PARTS = ("walls", "owner", "filter", "limits", "room", "guard", "inside")
"""What can be left out: namespaces or Landlock; a user of its own; the filter of system calls; the limits of a process; the bound of all
its files; whoever ends what it leaves; all that is taken from it inside."""
_ALLOW = base64.b64encode(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)).decode()


class Weakened:
    """A rung without some of its parts. Without "room" and "guard" is for who makes the place."""

    def __init__(self, rung: Rung, without: Sequence[str]) -> None:
        assert set(without) <= set(PARTS)
        self._rung = rung
        self._without = without
        self.name = rung.name
        self.is_in_memory = rung.is_in_memory

    def lacks(self, part: str) -> bool:
        return part in self._without

    def command(self, argv: Sequence[str], place: Place) -> list[str]:
        made = self._rung.command(argv, place)
        python, policy = len(made) - len(argv) - 6, len(made) - len(argv) - 1
        if self.lacks("inside"):
            return [*made[:python], *argv]
        made[policy] = json.dumps(self._weaker(json.loads(made[policy])))
        return made[python:] if self.lacks("walls") else made

    def _weaker(self, policy: dict[str, object]) -> dict[str, object]:
        less: dict[str, dict[str, object]] = {"walls": {"landlock": None}, "owner": {"uid": None}, "filter": {"seccomp": _ALLOW}}
        less["limits"] = {"limits": {}}
        for part in self._without:
            policy |= less.get(part, {})
        return policy
