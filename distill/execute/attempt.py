"""One attempt at a training: from the newest checkpoint that is whole to the end of the trainer, supervised all the while."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from distill.catalog import blobs
from distill.db import unit_of_work
from distill.errors import StorageError, StorageUnavailable
from distill.execute import checkpoints as copies
from distill.execute import train_folder
from distill.execute.hooks import crash_point
from distill.execute.orders import Order
from distill.execute.ports import Ports
from distill.execute.train_report import TrainReport
from distill.execute.work import StopReason, Troubled, Work
from distill.jobs import checkpoints, claims, events
from distill.jobs.models import FineTuneJob
from distill.jobs.training import key_name
from distill.pipeline.refusals import Reason, Refused
from distill.settings import get_settings
from distill.tracing import span
from distill.trainers.base import TrainOutcome, TrainRequest

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5


class Attempt:
    """The trainings of one key under one lease; `folder` is theirs alone, named by the fence."""

    def __init__(self, work: Work, ports: Ports, key: FineTuneJob, order: Order) -> None:
        self._work, self._ports, self._key, self._order = work, ports, key, order
        self._timers = get_settings().timers
        self.folder = ports.work_root / "train" / key.id / str(work.claim.fence)

    @contextmanager
    def of_its_own_folder(self) -> Iterator[None]:
        """The folder is removed afterwards: what is worth keeping is in the blob store."""
        try:
            yield
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def train(self) -> Mapping[str, Any]:
        """The trainer's report. Raises Refused for what cannot be trained on, Troubled when the trainer ends badly, Stopped."""
        for resume_from in self._places_to_go_on_from():
            outcome = self._supervise(resume_from)
            if not self._refuses(outcome, resume_from):
                return self._judge(outcome)
        raise AssertionError("the last place is the beginning, which no trainer refuses")

    # ------------------------------------------------------------ where it begins

    def _places_to_go_on_from(self) -> Iterator[Path | None]:
        """Checkpoints in the new work folder, the newest first, then None: from the beginning. Those that are not whole are left out."""
        with unit_of_work() as s:
            known = checkpoints.newest_first(s, self._key.id)
            s.expunge_all()
        for one in known:
            self._make_folder()
            place = self.folder / "resume" / f"step-{one.step}"
            try:
                copies.restore(self._ports.store, one.files, place)
            except StorageUnavailable:
                raise
            except StorageError as error:
                self._leave_out(one.step, error.message)
                continue
            self._tell_where(one.step)
            yield place
        self._make_folder()
        yield None

    def _make_folder(self) -> None:
        train_folder.make(self.folder, self._ports.store, self._key, self._order.start)

    def _leave_out(self, step: int, why: str) -> None:
        log.warning("checkpoint_left_out", fine_tuning_job=self._key.id, step=step, why=why)
        with unit_of_work() as s:
            checkpoints.refuse(s, self._work.claim, step, why)

    def _tell_where(self, step: int) -> None:
        with unit_of_work() as s:
            claims.hold(s, self._work.claim)
            text = f"{key_name(self._key)} goes on from its checkpoint at training step {step}"
            events.append(s, self._work.claim.job_id, "log", text, {"fine_tuning_job": self._key.id, "step": step})

    def _refuses(self, outcome: TrainOutcome, resume_from: Path | None) -> bool:
        """Whether the trainer could not go on from this checkpoint: a file in it is damaged, or it is of another base model."""
        if resume_from is None or outcome.kind != "bad_input" or (outcome.error or {}).get("param") != "resume_from":
            return False
        self._leave_out(copies.step_of(resume_from), str((outcome.error or {}).get("message")))
        return True

    # ------------------------------------------------------------ the trainer

    def _supervise(self, resume_from: Path | None) -> TrainOutcome:
        train_folder.describe(self.folder, self._key, self._order.seed, resume_from, self._timers.checkpoint_seconds)
        with span("training", {"stillhouse.fine_tuning_job": self._key.id, "stillhouse.resumed": resume_from is not None}) as recorded:
            outcome = self._until_it_ends()
            recorded.set({f"stillhouse.{name}": (outcome.result or {}).get(name) for name in ("steps", "rows", "tokens")})
            recorded.set({"stillhouse.outcome": outcome.kind})
            if outcome.kind not in ("succeeded", "drained"):
                recorded.fail(outcome.kind)
        if outcome.kind != "succeeded":
            self._work.check()
        return outcome

    def _until_it_ends(self) -> TrainOutcome:
        report = TrainReport(self._work, self._ports.store, self._key, self.folder / "log.txt")
        training = self._ports.trainers[self._key.trainer].start(self._request(), report.callbacks())
        try:
            with self._work.telling(lambda reason: training.stop(self._grace(reason))):
                while (outcome := training.wait(LOOK_SECONDS)) is None:
                    report.tell()
                    if report.has_begun:
                        crash_point("train.mid_work")
        finally:
            training.stop(0.0)  # whatever went wrong here, it does not go on alone
        report.tell(last=True)
        return outcome

    def _request(self) -> TrainRequest:
        left = self._timers.max_training_seconds - self._key.trained_seconds
        return TrainRequest(self.folder, self._timers.stall_seconds, max(left, 0.0), self._timers.stop_grace_seconds)

    def _grace(self, reason: StopReason) -> float:
        """Time for a last checkpoint, where somebody will go on from it."""
        return self._timers.stop_grace_seconds if reason in ("pause", "drain") else 0.0

    # ------------------------------------------------------------ how it ended

    def _judge(self, outcome: TrainOutcome) -> Mapping[str, Any]:
        if outcome.kind == "succeeded" and outcome.result is not None:
            return outcome.result
        self._keep_log()
        if outcome.kind == "bad_input" and outcome.error is not None:
            error = outcome.error
            raise Refused(Reason(str(error["code"]), str(error["message"]), "train", error.get("param"), retryable=False))
        if outcome.kind == "out_of_memory":
            raise Troubled("out_of_memory", f"{(outcome.error or {}).get('message')} {_LESS_MEMORY}", again=False)
        if outcome.kind == "deadline":
            raise Troubled("deadline", self._too_long(), again=False)
        last = (outcome.log_tail.strip().splitlines() or ["its log is empty"])[-1]
        raise Troubled(f"trainer_{outcome.kind}", f"The trainer {self._end(outcome)}: {last[:300]}")

    def _end(self, outcome: TrainOutcome) -> str:
        if outcome.kind == "stalled":
            return f"told no progress for {self._timers.stall_seconds:.0f} s and was ended"
        return f"was killed by signal {outcome.signal}" if outcome.kind == "killed" else f"ended with code {outcome.exit_code}"

    def _too_long(self) -> str:
        limit = f"{self._timers.max_training_seconds:.0f} s ([timers] max_training_seconds)"
        return f"{key_name(self._key)} was trained for longer than {limit}. Its last checkpoint is kept: raise it, and retry goes on."

    def _keep_log(self) -> None:
        """The log of an attempt that failed is what its user needs most. Raises LostLease."""
        place, store = self.folder / "log.txt", self._ports.store
        if not place.is_file():
            return
        digest = store.put(place)
        with unit_of_work() as s:
            claims.hold(s, self._work.claim)
            blobs.register(s, store, digest)
            train_folder.keep_log(s, self._key.id, digest)


_LESS_MEMORY = "Shorter rows (max_seq_length), a smaller batch_size or base model need less; retry goes on from the last checkpoint."
