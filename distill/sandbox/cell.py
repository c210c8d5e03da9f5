"""One sandboxed process's place, from the making of its home to its removal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from distill import folders, scratch
from distill.sandbox import memory, owners, removed
from distill.sandbox.rungs import MEGABYTE, PATH, Limits, Place, Rung


@dataclass(frozen=True)
class Cell:
    """A home that nobody else may enter, and the command that runs in it. Without a rung it is locked in by nothing."""

    place: Place
    command: list[str]
    is_in_memory: bool = False

    @property
    def home(self) -> Path:
        return self.place.home

    def environment(self) -> dict[str, str]:
        """All that a process inside is told by its environment."""
        home = str(self.home)
        return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home, "USER": "runner", "LOGNAME": "runner"}

    def is_overfull(self, processes: Callable[[], Iterable[int]]) -> bool:
        """Whether the files in the home take more than they may, or lie too deep; those that `processes` removed and hold open count too.

        A home in memory never is: what it may hold is bounded, and `processes` are not looked for.
        """
        if self.is_in_memory:
            return False
        return folders.holds_more(self.home, self.place.limits.scratch_mb * MEGABYTE - removed.size(processes(), self.place.uid))

    @property
    def memory_bytes(self) -> int:
        """What all its processes together may take."""
        return min(self.place.limits.memory_mb * MEGABYTE, memory.total_bytes() // 2)

    def takes_too_much(self, processes: Iterable[int]) -> bool:
        """Whether they take more memory than that."""
        return memory.holds_more(processes, self.place.uid, self.memory_bytes)

    def close(self) -> None:
        """Remove the home. Nothing that runs in it may be left."""
        try:
            folders.remove(self.home)
        finally:
            if self.place.owner is not None:
                self.place.owner.release()


def make(rung: Rung | None, python: str, arguments: Sequence[str], limits: Limits) -> Cell:
    """A place for `python ARGUMENTS…`. Raises OSError, and UnknownProcessor."""
    with ExitStack() as undo:
        owner = owners.claim() if rung else None
        if owner is not None:
            undo.callback(owner.release)
        home = scratch.make_folder("runner", owner.uid if owner else None)
        undo.callback(folders.remove, home)
        place = Place(python, home, limits, owner)
        argv = [python, *arguments]
        cell = Cell(place, rung.command(argv, place), rung.is_in_memory) if rung else Cell(place, argv)
        undo.pop_all()
    return cell
