"""What every training back end offers, and the values that pass in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# The last two: killed by a signal, and ended in any other way.
OutcomeKind = Literal["succeeded", "bad_input", "drained", "killed", "crashed"]


@dataclass(frozen=True)
class TrainRequest:
    """One fine-tune job to train. ``folder`` exists, holds job.json and the rows, and belongs to this training alone."""

    folder: Path


@dataclass(frozen=True)
class TrainProgress:
    """Where training stands; ``percent`` 0-100, ``seconds_remaining`` None until the pace is known."""

    step: int
    total_steps: int
    epoch: float
    percent: float
    seconds_remaining: float | None


@dataclass(frozen=True)
class TrainOutcome:
    """How a training ended.

    ``result`` is the trainer's own report if it succeeded; ``error`` {code, message, param} if its input was bad; ``signal``
    the number that killed it; ``log_tail`` the end of its log; ``checkpoint`` the newest checkpoint folder, if any.
    """

    kind: OutcomeKind
    exit_code: int | None = None
    signal: int | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    log_tail: str = ""
    checkpoint: Path | None = None


def _ignore(_: Any) -> None:
    """The callback of somebody who does not listen."""


@dataclass(frozen=True)
class TrainCallbacks:
    """Called from the training's own thread, in order; what they raise is logged and stops nothing.

    A curve line is a mapping {step, epoch, loss, validation_loss?, learning_rate, tokens_per_second, at}; after a resume the
    lines start again from step 1, so key them by ``step``.
    """

    on_progress: Callable[[TrainProgress], None] = field(default=_ignore)
    on_curve: Callable[[Mapping[str, Any]], None] = field(default=_ignore)
    on_checkpoint: Callable[[Path], None] = field(default=_ignore)


class Training(Protocol):
    """A training under way."""

    def wait(self, timeout: float | None = None) -> TrainOutcome | None:
        """The outcome, or None if it has not ended after ``timeout`` seconds."""
        ...

    def stop(self, grace: float) -> None:
        """Ask for a checkpoint and an end, and after ``grace`` seconds end it the hard way. Does not wait."""
        ...


class Trainer(Protocol):
    """A training back end."""

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        """Begin to train. Returns at once."""
        ...
