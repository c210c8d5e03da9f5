"""Training on this machine, in a process of its own: ``python -m engines.trainer WORK_DIR``.

The child gets an environment without secrets, and a guard, so that it ends with all that it started, and with this process.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import IO, Any, BinaryIO

from distill import processes
from distill.processes import End, Tree
from distill.trainers.base import MaxLength, OutcomeKind, Room, TokenCounts, TrainCallbacks, TrainOutcome, TrainProgress, TrainRequest
from distill.trainers.counter import LocalCounter
from distill.trainers.environment import child_environment

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOG_TAIL_BYTES = 4000
DIGEST_SECONDS = 300.0
"""Weights that nobody has read yet are hashed once; large ones take a while."""
# Of an earlier attempt in the same folder; the trainer takes the curve up again from its checkpoint.
LEFT_BEHIND = ("curve.jsonl", "progress.json", "result.json", "error.json")
EXIT_DONE, EXIT_BAD_INPUT, EXIT_DRAINED, EXIT_OUT_OF_MEMORY = 0, 2, 3, 4


class LocalTrainer:
    """Starts trainer processes with ``python``, an interpreter that has torch. Thread-safe; one is enough for a process."""

    def __init__(self, python: str = sys.executable, extra_environment: Mapping[str, str] | None = None) -> None:
        self._python = python
        self._extra = dict(extra_environment or {})
        self._counter = LocalCounter(python, self._extra)

    def base_digest(self, base_model: str) -> str | None:
        """Asked in a process of its own: the trainer's interpreter and environment know where the weights are. Blocks."""
        digest = self._asked("engines.base_models", base_model)
        return digest if digest is not None and digest.startswith("sha256:") else None

    def room(self, base_model: str, longest_tokens: int) -> Room | None:
        """Measured in a process of its own, which may see a GPU. Blocks."""
        answer = self._asked("engines.trainer.room", base_model, str(longest_tokens))
        try:
            room = None if answer is None else json.loads(answer.splitlines()[-1])
            return None if room is None else Room(needed=room["needed"], free=room["free"])
        except (ValueError, TypeError, KeyError, IndexError):
            return None  # a plugin has printed something else

    def resolve(
        self, base_model: str, options: Mapping[str, Any], rows: BinaryIO, start: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any] | None:
        """Resolved in a process of its own, by the trainer's own code. Blocks."""
        request = {"base_model": base_model, "options": dict(options), "start": None if start is None else dict(start)}
        with tempfile.TemporaryFile() as told:
            told.write(json.dumps(request).encode() + b"\n")
            shutil.copyfileobj(rows, told)
            told.seek(0)
            answer = self._asked("engines.resolver", stdin=told)
        try:
            found: dict[str, Any] | None = None if answer is None else json.loads(answer.splitlines()[-1])
        except (ValueError, IndexError):
            return None  # a plugin has printed something else
        return found

    def _asked(self, module: str, *arguments: str, stdin: IO[bytes] | None = None) -> str | None:
        """What a module of the engines prints about a base model; None if it fails."""
        try:
            done = subprocess.run(
                [self._python, "-m", module, *arguments],
                stdin=stdin or subprocess.DEVNULL,
                capture_output=True,
                timeout=DIGEST_SECONDS,
                env=child_environment(os.environ) | self._extra,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.warning("%s does not answer%s: %s", module, "".join(f" {each}" for each in arguments[:1]), error)
            return None
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> LocalTraining:
        """Start the trainer on ``request.folder``. Raises OSError if the interpreter cannot be started."""
        for name in LEFT_BEHIND:
            (request.folder / name).unlink(missing_ok=True)
        command = [self._python, "-m", "engines.trainer", str(request.folder)]
        with (request.folder / "log.txt").open("ab") as log:
            tree = processes.start(command, child_environment(os.environ) | self._extra, stdout=log, stderr=subprocess.STDOUT)
        return LocalTraining(request, tree, callbacks)

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        """How many tokens rows have for a base model. Raises CannotCount, CounterDied."""
        return self._counter.count(base_model, max_seq_length, rows)

    def rest(self) -> None:
        """End the token counter until it is asked again."""
        self._counter.rest()

    def close(self) -> None:
        """End the token counter and the thread that started it; trainings under way go on."""
        self._counter.close()


class LocalTraining:
    """One trainer process and the thread that follows it."""

    def __init__(self, request: TrainRequest, tree: Tree, callbacks: TrainCallbacks) -> None:
        self._folder = request.folder
        self._tree = tree
        self._callbacks = callbacks
        self._outcome: Future[TrainOutcome] = Future()
        self._curve_offset = 0
        self._told_progress: TrainProgress | None = None
        self._told_checkpoint: Path | None = _newest_checkpoint(request.folder)
        self._watch = Watch(request)
        self._verdict: OutcomeKind | None = None
        self._kill_at: float | None = None
        self._stopping = threading.Lock()
        threading.Thread(target=copy_context().run, args=(self._follow,), name=f"trainer-{tree.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The trainer's process id, which is also its process group's."""
        return self._tree.pid

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
            if grace <= 0:
                self._tree.kill()
            elif self._kill_at is None:
                self._tree.signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)

    def _follow(self) -> None:
        try:
            end = self._until_it_ends()
            self._report()
            self._outcome.set_result(_classify(self._folder, end, self._verdict))
        except Exception as error:  # whoever waits must learn of it
            self._tree.kill()
            self._outcome.set_exception(error)

    def _until_it_ends(self) -> End:
        while (end := self._tree.wait(POLL_SECONDS)) is None:
            self._report()
            if self._verdict is None and (verdict := self._watch.verdict()) is not None:
                self._verdict = verdict
                self.stop(self._watch.grace(verdict))
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return self._tree.end()
        return end

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


class Watch:
    """Whether a training still gets on. A trainer that hangs holds its memory and its device, and looks alive from outside."""

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._begun = self._seen_at = time.monotonic()
        self._seen: tuple[int, ...] = ()

    def verdict(self) -> OutcomeKind | None:
        """Called again and again; why it is to end now, or None."""
        now, signs = time.monotonic(), self._signs()
        if signs != self._seen:
            self._seen, self._seen_at = signs, now
        if self._request.stall_seconds is not None and now - self._seen_at > self._request.stall_seconds:
            return "stalled"
        if self._request.max_seconds is not None and now - self._begun > self._request.max_seconds:
            return "deadline"
        return None

    def grace(self, verdict: OutcomeKind) -> float:
        """What hangs writes no checkpoint."""
        return self._request.grace_seconds if verdict == "deadline" else 0.0

    def _signs(self) -> tuple[int, ...]:
        """Changes when it gets on: its progress; before there is any, while it reads rows and loads the base model, its log."""
        changed = _changed_at(self._request.folder / "progress.json")
        return (changed,) if changed else (0, _changed_at(self._request.folder / "log.txt"))


def _changed_at(place: Path) -> int:
    try:
        return place.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _classify(folder: Path, end: End, verdict: OutcomeKind | None) -> TrainOutcome:
    """From how the process ended, and why we ended it if we did: what it managed to finish before it heard of that counts."""
    result, error = _read_json(folder / "result.json"), _read_json(folder / "error.json")
    kind = _kind(end, verdict, done=result is not None, explained=error is not None)
    return TrainOutcome(
        kind,
        exit_code=end.code,
        signal=end.signal,
        result=result if kind == "succeeded" else None,
        error=_shortage(end, error) if kind == "out_of_memory" else error if kind == "bad_input" else None,
        log_tail=_log_tail(folder),
        checkpoint=_newest_checkpoint(folder),
    )


def _kind(end: End, verdict: OutcomeKind | None, *, done: bool, explained: bool) -> OutcomeKind:
    if end.code == EXIT_DONE and done:
        return "succeeded"
    if verdict is not None:
        return verdict
    if end.out_of_memory or end.code == EXIT_OUT_OF_MEMORY:
        return "out_of_memory"
    if end.signal is not None:
        return "killed"
    if end.code == EXIT_BAD_INPUT and explained:
        return "bad_input"
    return "drained" if end.code == EXIT_DRAINED else "crashed"


def _shortage(end: End, told: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The trainer's own words where it could still speak."""
    if told is not None:
        return told
    used = f"{end.peak_memory_bytes / 2**30:.1f} GiB"
    message = f"The system ran out of memory and ended the trainer, which had used up to {used}."
    return {"code": "out_of_memory", "message": message, "param": None}


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
