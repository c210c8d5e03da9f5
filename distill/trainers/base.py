"""What every training back end offers, and the values that pass in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

OutcomeKind = Literal["succeeded", "bad_input", "drained", "out_of_memory", "stalled", "deadline", "killed", "crashed"]
"""`stalled`, `deadline`: ended because it told nothing for too long, or took too long. `killed`: by a signal. `crashed`: anything else."""


@dataclass(frozen=True)
class TrainRequest:
    """One fine-tune job to train. ``folder`` exists, holds job.json and the rows, and belongs to this training alone.

    It ends when it has told no progress for ``stall_seconds``. After ``max_seconds`` it is stopped, and has ``grace_seconds`` for a
    checkpoint.
    """

    folder: Path
    stall_seconds: float | None = None
    max_seconds: float | None = None
    grace_seconds: float = 0.0


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

    ``result`` is the trainer's own report if it succeeded; ``error`` {code, message, param} if its input was bad or its memory ran out;
    ``signal`` the number that killed it; ``log_tail`` the end of its log; ``checkpoint`` the newest checkpoint folder, if any. Nothing
    of its process tree is left.
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


MaxLength = int | Literal["auto"]


@dataclass(frozen=True)
class RowTokens:
    """Tokens of one row as it is trained on, the end-of-turn token included; `fault` says why it cannot be trained on."""

    prompt: int = 0
    completion: int = 0
    fault: str | None = None

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class TokenCounts:
    """Of rows in the order they were asked for; `longest` is the most tokens that a row may have."""

    longest: int
    rows: tuple[RowTokens, ...] = ()


@dataclass(frozen=True)
class Room:
    """Bytes of memory on the trainer's device: what a training beside a running LM host would need, and what is free."""

    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        return self.free >= self.needed


class CannotCount(Exception):
    """The trainer could not train on this base model either; trying again changes nothing."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class CounterDied(Exception):
    """No answer this time."""


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

    def base_digest(self, base_model: str) -> str | None:
        """`sha256:…` of the weights that a training on `base_model` would start from now; None where that cannot be told."""
        ...

    def room(self, base_model: str, longest_tokens: int) -> Room | None:
        """The memory for a training whose longest row has `longest_tokens`, measured now; None where it cannot be told. Blocks."""
        ...

    def resolve(
        self, base_model: str, options: Mapping[str, Any], rows: BinaryIO, start: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any] | None:
        """The options that a training on `rows` would run with, as its result tells them; None where that cannot be told. Blocks.

        `start` is the configuration of the LoRA adapter that it begins with.
        """
        ...

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        """Begin to train. Returns at once."""
        ...

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        """Tokens of rows with the base model's own tokenizer and chat template, without a device. Raises CannotCount, CounterDied."""
        ...

    def rest(self) -> None:
        """End what is kept warm for `count`; trainings under way go on, and it may be used again."""
        ...
