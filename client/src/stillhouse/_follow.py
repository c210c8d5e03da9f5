"""A loaded program that goes on to another artifact when its alias is moved. Needs `stillhouse[dspy]`."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import dspy

from stillhouse._fallback import Fallbacks
from stillhouse._stand_in import StandIn

_log = logging.getLogger(__name__)


class Follower:
    """The program that an alias names, looked up again every `seconds`.

    It is replaced as a whole, by one assignment: a call that has begun ends on the program that it began on.
    """

    def __init__(self, resolve: Callable[[], str], load: Callable[[str], dspy.Module], seconds: float) -> None:
        """`resolve` gives the id of the artifact that is named now, `load` the program of an id."""
        self._resolve = resolve
        self._load = load
        self._seconds = seconds
        self._one_at_a_time = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._artifact = resolve()
        self._program = load(self._artifact)
        self._go_on_looking()

    def program(self) -> dspy.Module:
        """The program as it is now."""
        self._go_on_looking()
        return self._program

    def _go_on_looking(self) -> None:
        """A process that was forked has no thread of its own yet; and who held the lock at the fork is not here to release it."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._one_at_a_time = threading.Lock()
                thread = threading.Thread(target=_look_again, args=(weakref.ref(self), self._seconds), daemon=True)
                thread.start()
                self._thread = thread

    def look(self) -> None:
        """Ask where the alias points, and go there. Raises as loading does; the program stays then."""
        with self._one_at_a_time:
            artifact = self._resolve()
            if artifact != self._artifact:
                self._program, self._artifact = self._load(artifact), artifact
                _log.info("now %s", artifact)


def _look_again(follower: weakref.ref[Follower], seconds: float) -> None:
    """Until nobody has the program any more."""
    pause = threading.Event()
    while not pause.wait(seconds):
        found = follower()
        if found is None:
            return
        try:
            found.look()
        except Exception as error:  # whatever it is, the program that runs goes on, and the next look may succeed
            _log.warning("the program stays as it is: %s", error)
        del found


class Following(StandIn):
    """What `stillhouse.load(…, follow=…)` returns: a module that is, at each call, the program that the alias names.

    Its predictors are those of now; a copy stays with them. `fallbacks` counts on over all programs that it was.
    """

    def __init__(self, follower: Follower, counted: Fallbacks) -> None:
        super().__init__()
        self._follower, self._counted = follower, counted

    @property
    def fallbacks(self) -> int:
        return self._counted.count

    def now(self) -> dspy.Module:
        return self._follower.program()

    def refresh(self) -> None:
        """Look where the alias points now, without waiting for the next time."""
        self._follower.look()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._follower.program()(*args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        return await self._follower.program().acall(*args, **kwargs)
