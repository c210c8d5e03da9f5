"""Training on this machine, in a process of its own: ``python -m engines.trainer WORK_DIR``.

The child gets a session of its own, so that all of it can be stopped, and an environment without secrets. One long-lived
thread starts the children: where the system ties a child's life to that of its parent, it ties it to the thread that started it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distill.trainers.base import MaxLength, TokenCounts, TrainCallbacks, TrainOutcome, TrainProgress, TrainRequest
from distill.trainers.counter import LocalCounter
from distill.trainers.environment import child_environment

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOG_TAIL_BYTES = 4000
DIGEST_SECONDS = 300.0
"""Weights that nobody has read yet are hashed once; large ones take a while."""
# Of an earlier attempt in the same folder; the trainer takes the curve up again from its checkpoint.
LEFT_BEHIND = ("curve.jsonl", "progress.json", "result.json", "error.json")
EXIT_DONE, EXIT_BAD_INPUT, EXIT_DRAINED = 0, 2, 3


class LocalTrainer:
    """Starts trainer processes with ``python``, an interpreter that has torch. Thread-safe; one is enough for a process."""

    def __init__(self, python: str = sys.executable, extra_environment: Mapping[str, str] | None = None) -> None:
        self._python = python
        self._extra = dict(extra_environment or {})
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainer-starter")
        self._counter = LocalCounter(python, self._extra)

    def base_digest(self, base_model: str) -> str | None:
        """Asked in a process of its own: the trainer's interpreter and environment know where the weights are. Blocks."""
        command = [self._python, "-m", "engines.base_models", base_model]
        try:
            done = subprocess.run(command, capture_output=True, timeout=DIGEST_SECONDS, env=child_environment(os.environ) | self._extra)
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.warning("the digest of base model %s is not known: %s", base_model, error)
            return None
        told = done.stdout.decode(errors="replace").strip()
        return told if done.returncode == 0 and told.startswith("sha256:") else None

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> LocalTraining:
        """Start the trainer on ``request.folder``. Raises OSError if the interpreter cannot be started."""
        process = self._starter.submit(self._spawn, request.folder).result()
        return LocalTraining(request.folder, process, callbacks, self._starter)

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        """How many tokens rows have for a base model. Raises CannotCount, CounterDied."""
        return self._counter.count(base_model, max_seq_length, rows)

    def rest(self) -> None:
        """End the token counter until it is asked again."""
        self._counter.rest()

    def close(self) -> None:
        """Let the starting thread end; trainings under way go on where the system does not tie them to it."""
        self._counter.close()
        self._starter.shutdown(wait=False)

    def _spawn(self, folder: Path) -> subprocess.Popen[bytes]:
        for name in LEFT_BEHIND:
            (folder / name).unlink(missing_ok=True)
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [self._python, "-m", "engines.trainer", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=child_environment(os.environ) | self._extra,
            )


class LocalTraining:
    """One trainer process and the thread that follows it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], callbacks: TrainCallbacks, starter: Executor) -> None:
        # Its thread must outlive the process, also when nobody else holds the LocalTrainer any more.
        self._starter = starter
        self._folder = folder
        self._process = process
        self._callbacks = callbacks
        self._outcome: Future[TrainOutcome] = Future()
        self._curve_offset = 0
        self._told_progress: TrainProgress | None = None
        self._told_checkpoint: Path | None = _newest_checkpoint(folder)
        self._kill_at: float | None = None
        self._stopping = threading.Lock()
        threading.Thread(target=self._follow, name=f"trainer-{process.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The trainer's process id, which is also its process group's."""
        return self._process.pid

    def wait(self, timeout: float | None = None) -> TrainOutcome | None:
        """The outcome, or None if it has not ended after ``timeout`` seconds."""
        try:
            return self._outcome.result(timeout)
        except TimeoutError:
            return None

    def stop(self, grace: float = 60.0) -> None:
        """SIGTERM now, so that it writes a checkpoint; SIGKILL to the whole group if it still runs after ``grace`` seconds."""
        with self._stopping:
            if self._outcome.done():
                return
            if self._kill_at is None:
                self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)

    def _follow(self) -> None:
        try:
            while self._exit_code() is None:
                self._report()
                if self._kill_at is not None and time.monotonic() >= self._kill_at:
                    self._signal(signal.SIGKILL)
            self._report()
            # Whatever it left behind in its group ends with it.
            self._signal(signal.SIGKILL)
            self._outcome.set_result(_classify(self._folder, self._process.returncode))
        except Exception as error:  # whoever waits must learn of it
            self._outcome.set_exception(error)

    def _exit_code(self) -> int | None:
        """The exit code, after at most POLL_SECONDS."""
        try:
            return self._process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _report(self) -> None:
        for line in self._new_curve_lines():
            _tell(self._callbacks.on_curve, line)
        progress = _read_progress(self._folder)
        if progress is not None and progress != self._told_progress:
            self._told_progress = progress
            _tell(self._callbacks.on_progress, progress)
        checkpoint = _newest_checkpoint(self._folder)
        if checkpoint is not None and checkpoint != self._told_checkpoint:
            self._told_checkpoint = checkpoint
            _tell(self._callbacks.on_checkpoint, checkpoint)

    def _new_curve_lines(self) -> list[dict[str, Any]]:
        """Whole lines written since the last call."""
        curve = self._folder / "curve.jsonl"
        if not curve.is_file():
            return []
        with curve.open("rb") as stream:
            stream.seek(self._curve_offset)
            fresh = stream.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._curve_offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _classify(folder: Path, code: int) -> TrainOutcome:
    log_tail, checkpoint = _log_tail(folder), _newest_checkpoint(folder)
    if code < 0:
        return TrainOutcome("killed", signal=-code, log_tail=log_tail, checkpoint=checkpoint)
    if code == EXIT_DRAINED:
        return TrainOutcome("drained", exit_code=code, log_tail=log_tail, checkpoint=checkpoint)
    result, error = _read_json(folder / "result.json"), _read_json(folder / "error.json")
    if code == EXIT_DONE and result is not None:
        return TrainOutcome("succeeded", exit_code=code, result=result, log_tail=log_tail, checkpoint=checkpoint)
    if code == EXIT_BAD_INPUT and error is not None:
        return TrainOutcome("bad_input", exit_code=code, error=error, log_tail=log_tail, checkpoint=checkpoint)
    return TrainOutcome("crashed", exit_code=code, log_tail=log_tail, checkpoint=checkpoint)


def _read_progress(folder: Path) -> TrainProgress | None:
    content = _read_json(folder / "progress.json")
    return None if content is None else TrainProgress(**content)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The file's object; None if there is no such file. The trainer renames files into place, so none is ever half."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content


def _newest_checkpoint(folder: Path) -> Path | None:
    steps = {int(place.name.removeprefix("step-")): place for place in (folder / "checkpoints").glob("step-*")}
    return steps[max(steps)] if steps else None


def _log_tail(folder: Path) -> str:
    log = folder / "log.txt"
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - LOG_TAIL_BYTES, 0))
        return stream.read().decode("utf-8", errors="replace")


def _tell(callback: Callable[[Any], None], value: Any) -> None:
    try:
        callback(value)
    except Exception:  # somebody else's code; training goes on
        logger.exception("a training callback failed")
