"""What happens around a training step: the curve and progress files, validation, checkpoints and the reasons to stop."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from engines.schemas import CurveLine, Progress, ResolvedOptions
from engines.sharing import Sign
from engines.trainer.checkpoint import Snapshot
from engines.trainer.files import write_json


class Reporter(TrainerCallback):
    """Writes curve.jsonl, one line a training step, and progress.json after each."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self._curve = folder / "curve.jsonl"
        self._progress = folder / "progress.json"
        self._snapshot = snapshot
        self._pending: dict[str, Any] | None = None
        self._step_started = self._begun = time.monotonic()
        self._tokens_before = snapshot.counters.tokens
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.monotonic()
        self._first_step = state.global_step
        self._write_progress(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.flush()
        self._step_started = time.monotonic()
        self._tokens_before = self._snapshot.counters.tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds = time.monotonic() - self._step_started
        self._snapshot.counters.seconds += seconds
        self._pending = {"tokens_per_second": (self._snapshot.counters.tokens - self._tokens_before) / max(seconds, 1e-9)}
        self._write_progress(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if self._pending is None or "loss" not in logs:
            return
        self._pending |= {
            "step": state.global_step,
            "epoch": state.epoch,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "at": time.time(),
        }

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if self._pending is not None:
            self._pending |= {"validation_loss": metrics["eval_loss"], "validation_exact_match": metrics["eval_exact_match"]}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.flush()

    def touch(self) -> None:
        """Say that it goes on, although no training step has ended."""
        with suppress(FileNotFoundError):
            os.utime(self._progress)

    def flush(self) -> None:
        """Append the finished step's line, complete with its validation loss if it was evaluated."""
        if self._pending is None or "loss" not in self._pending:
            return
        line = CurveLine.model_validate(self._pending)
        self._pending = None
        with self._curve.open("a", encoding="utf-8") as curve:
            curve.write(line.model_dump_json(exclude_none=True) + "\n")

    def _write_progress(self, state: Any) -> None:
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        pace = (time.monotonic() - self._begun) / done if done else None
        progress = Progress(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=state.epoch or 0.0,
            percent=100.0 * state.global_step / max(state.max_steps, 1),
            seconds_remaining=None if pace is None else pace * left,
        )
        write_json(self._progress, progress)


class Validation(TrainerCallback):
    """Keeps the best weights by what is watched of the validation rows, and stops when that no longer gets better.

    Of weights with the same share of exact matches those with the lower loss are better.
    """

    def __init__(self, snapshot: Snapshot, options: ResolvedOptions) -> None:
        self._snapshot = snapshot
        self._early_stopping = options.early_stopping
        self._by_loss = options.best_by == "loss"
        self.stopped = False

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], model: Any = None, **kwargs: Any) -> None:
        loss, exact, counters = metrics["eval_loss"], metrics["eval_exact_match"], self._snapshot.counters
        least = self._early_stopping.min_delta if self._early_stopping else 0.0
        counters.stale = 0 if self._is_better(loss, exact, least) else counters.stale + 1
        if self._is_better(loss, exact):
            self._snapshot.keep_best(model, state.global_step, loss, exact)
        if self._early_stopping and counters.stale >= self._early_stopping.patience:
            self.stopped = control.should_training_stop = True

    def _is_better(self, loss: float, exact: float, by: float = 0.0) -> bool:
        """Whether this beats the best so far by more than ``by``."""
        best_loss, best_exact = self._snapshot.counters.best_loss, self._snapshot.counters.best_exact_match
        if best_loss is None:
            return True
        if self._by_loss or best_exact is None:
            return loss < best_loss - by
        return exact > best_exact + by or (exact == best_exact and loss < best_loss)


class Threads(TrainerCallback):
    """Leaves a core to an LM host on the same processor for as long as it answers somebody."""

    def __init__(self) -> None:
        self._answering = Sign("answering")
        self._all = torch.get_num_threads()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wanted = max(self._all - 1, 1) if self._answering.is_shown() else self._all
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.set_num_threads(self._all)


class Limits(TrainerCallback):
    """Asks for checkpoints before too long, and stops on SIGTERM or when the time is up."""

    def __init__(self, stop: threading.Event, max_seconds: float | None, checkpoint_seconds: float, *, validates: bool) -> None:
        self._stop = stop
        self._checkpoint_seconds = checkpoint_seconds
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._validates = validates
        self._saved_at = self._stepped_at = time.monotonic()
        self.reason: Literal["drained", "max_seconds"] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        seconds, self._stepped_at = now - self._stepped_at, now
        if self._stop.is_set():
            # Also at the very last step: the caller is told to go on from the checkpoint, which then ends at once.
            self.reason = "drained"
            control.should_save = control.should_training_stop = True
        elif state.global_step >= state.max_steps:
            return
        elif self._deadline is not None and now >= self._deadline:
            self.reason = "max_seconds"
            control.should_training_stop = True
            control.should_evaluate = self._validates
        elif now - self._saved_at + seconds >= self._checkpoint_seconds:  # after another step like this one it would be too late
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()
