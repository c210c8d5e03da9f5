"""What a training tells while it runs: its checkpoints as they come; its curve and progress as events, at most one of each a second."""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from distill.catalog.copying import clean
from distill.db import Session, unit_of_work
from distill.errors import LostLease
from distill.execute import checkpoints
from distill.execute.work import Work
from distill.jobs import claims, events
from distill.jobs.models import FineTuneJob
from distill.storage import BlobStore
from distill.trainers.base import TrainCallbacks, TrainProgress

log = structlog.get_logger(__name__)

EVERY_SECONDS = 1.0
LOG_TAIL_BYTES = 16_384


class TrainReport:
    """The callbacks only remember; `tell` writes, from the thread that supervises."""

    def __init__(self, work: Work, store: BlobStore, key: FineTuneJob, log: Path) -> None:
        self._work = work
        self._store = store
        self._id = key.id
        self._trained_before, self._begun = key.trained_seconds, time.monotonic()
        self._lock = threading.Lock()
        self._curve: dict[str, Any] | None = None
        self._progress: TrainProgress | None = None
        self._checkpoint: Path | None = None
        self._told_at = 0.0
        self._log = log
        self._log_size = 0
        self.has_begun = False

    def callbacks(self) -> TrainCallbacks:
        return TrainCallbacks(self._on_progress, self._on_curve, self._on_checkpoint)

    def _on_progress(self, progress: TrainProgress) -> None:
        with self._lock:
            self._progress = progress
        message = f"Training step {progress.step} of {progress.total_steps}"
        self._work.progress(message=message, fine_tuning_job=self._id, **asdict(progress))

    def _on_curve(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._curve, self.has_begun = dict(line), True

    def _on_checkpoint(self, place: Path) -> None:
        with self._lock:
            self._checkpoint = place

    def tell(self, last: bool = False) -> None:
        """Write what is new, unless it is too early for more; nothing once the lease is lost, and the work hears of it.

        Without a database the training goes on for as long as the lease may last; a checkpoint is kept for the next look.
        """
        try:
            self._publish_checkpoint()
            if last or time.monotonic() - self._told_at >= EVERY_SECONDS:
                self._tell_news(last)
        except LostLease:
            self._work.stop("lost")
        except SQLAlchemyError as error:
            log.warning("training_not_told", fine_tuning_job=self._id, error=str(error))

    def _publish_checkpoint(self) -> None:
        place = self._checkpoint
        if place is not None and self._work.stop_reason not in ("lost", "cancel"):
            checkpoints.publish(self._work.claim, self._store, place)
            with self._lock:  # the trainer may have written another meanwhile
                self._checkpoint = None if self._checkpoint == place else self._checkpoint

    def _tell_news(self, last: bool) -> None:
        with self._lock:
            curve, progress = self._curve, self._progress
            self._curve = self._progress = None
        tail = self._new_log()
        if curve is None and progress is None and tail is None and not last:
            return
        self._told_at = time.monotonic()
        with unit_of_work() as s:
            claims.hold(s, self._work.claim)
            if tail is not None:
                s.execute(update(FineTuneJob).where(FineTuneJob.id == self._id).values(log_tail=clean(tail)))
            self._write(s, curve, progress)

    def _new_log(self) -> str | None:
        """The end of the trainer's log, if there is more of it than was told."""
        size = self._log.stat().st_size if self._log.is_file() else 0
        if size == self._log_size:
            return None
        self._log_size = size
        with self._log.open("rb") as file:
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")

    def _write(self, s: Session, curve: dict[str, Any] | None, progress: TrainProgress | None) -> None:
        values: dict[str, Any] = {"trained_seconds": self._trained_before + time.monotonic() - self._begun}
        if progress is not None:
            values["progress"] = asdict(progress)
        s.execute(update(FineTuneJob).where(FineTuneJob.id == self._id).values(**values))
        if curve is not None:
            text = f"Training step {curve['step']}: loss {curve['loss']:.4f}"
            events.append(s, self._work.claim.job_id, "train.curve", text, {"fine_tuning_job": self._id, **curve})
