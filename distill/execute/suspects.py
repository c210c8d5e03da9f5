"""Which example ends the program's process. Those that were in flight when it died are run again, fewer at a time, until one is left.

A process that dies takes with it what others had in flight; what they had finished is kept. So the ones in flight are halved: each half
runs by itself, the half that dies is halved again, and one example under which a process of its own dies twice is to blame.
"""

from collections import Counter
from collections.abc import Collection, Sequence

ALONE = 2
"""So many processes must an example end by itself: the first may have been ended by what somebody else left behind in it."""
MOST_CULPRITS = 10
"""With more in one slice it is not the examples but the program."""
UNEXPLAINED = 3
"""With more deaths of a whole slice in a row without a culprit, nobody is to blame that is known here."""


class Suspects:
    """Of one slice. Examples are named by their index."""

    def __init__(self) -> None:
        self._groups: list[list[int]] = []
        self._alone: Counter[int] = Counter()
        self._unexplained = 0
        self.culprits = 0

    def next(self, pending: Collection[int]) -> list[int]:
        """The group to be run by itself now, of those that are pending; empty when nobody is suspected."""
        while self._groups:
            group = [index for index in self._groups.pop() if index in pending]
            if group:
                return group
        return []

    def suspect(self, index: int) -> None:
        """Run this one by itself next."""
        self._groups.append([index])

    def died(self, in_flight: Sequence[int], *, suspected: bool, once: bool = False) -> int | None:
        """A process died under these; `suspected` if they were a group, `once` if nobody dies so by accident.

        Returns the one that is to blame, when it is certain.
        """
        self._unexplained += not suspected
        if len(in_flight) > 1:
            middle = len(in_flight) // 2
            self._groups += [list(in_flight[middle:]), list(in_flight[:middle])]
            return None
        (index,) = in_flight
        self._alone[index] += suspected
        if self._alone[index] < (1 if once else ALONE):
            self.suspect(index)
            return None
        self._unexplained = 0
        self.culprits += 1
        return index

    @property
    def is_unexplained(self) -> bool:
        """Looking for a culprit has led nowhere: it is the program itself, or the machine."""
        return self._unexplained > UNEXPLAINED
