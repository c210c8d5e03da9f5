"""The trainer as a process: how it is started, followed, stopped and judged."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distill import processes
from distill.trainers import LocalTrainer, TrainCallbacks, TrainOutcome, TrainProgress, TrainRequest
from distill.trainers.environment import child_environment
from engines.base_models import resolve
from engines.sharing import NICENESS, Sign
from engines.trainer.room import token_bytes
from tests.unit.trainer.conftest import MakeJob, make_rows

LONG = {"n_epochs": 2000, "batch_size": 4}
LIMIT = 90.0
PROGRESS = {"step": 1, "total_steps": 2, "epoch": 0.5, "percent": 50.0, "seconds_remaining": None}


@pytest.fixture
def trainer() -> Iterator[LocalTrainer]:
    trainer = LocalTrainer(extra_environment={"OMP_NUM_THREADS": "1"})
    yield trainer
    trainer.close()


def finish(trainer: LocalTrainer, folder: Path, callbacks: TrainCallbacks | None = None) -> TrainOutcome:
    outcome = trainer.start(TrainRequest(folder), callbacks or TrainCallbacks()).wait(LIMIT)
    assert outcome is not None
    return outcome


def pretender(place: Path, script: str) -> Path:
    """A shell script in the place of Python; `{folder}` in it is the work folder."""
    python = place / "python"
    python.write_text("#!/bin/sh\nexport F=$3\n" + script.format(folder="$F") + "\n")
    python.chmod(0o755)
    return python


def an_hour_later(monkeypatch: pytest.MonkeyPatch, place: Path, *, again: bool = False) -> None:
    """It is by the clock of whoever watches, once something was written there; with `again` at each look from then on. The first look is
    at the begin."""
    looks, late = count(), [0]

    def now() -> float:
        if next(looks) and place.exists() and place.read_text() and (again or not late[0]):
            late[0] += 3600
        return time.monotonic() + late[0]

    monkeypatch.setattr("distill.trainers.local.time", SimpleNamespace(monotonic=now))


class TestBaseDigest:
    def test_it_is_that_of_the_weights_and_none_for_a_model_that_nobody_knows(self, tiny_model: Path) -> None:
        trainer = LocalTrainer(extra_environment={"STILLHOUSE_MODELS": str(tiny_model.parent)})
        assert trainer.base_digest(f"local/{tiny_model.name}") == resolve(str(tiny_model)).digest
        assert trainer.base_digest("local/nobody") is None
        trainer.close()


class TestRoom:
    def test_it_grows_with_the_base_model_and_the_longest_row_and_none_is_known_of_an_unknown_model(self, tiny_model: Path) -> None:
        trainer = LocalTrainer(extra_environment={"STILLHOUSE_MODELS": str(tiny_model.parent)})
        name = f"local/{tiny_model.name}"
        short, long = (trainer.room(name, tokens) for tokens in (1000, 5000))
        assert short is not None
        assert long is not None
        assert min(short.needed, short.free) > 4 * sum(weight.numel() for weight in resolve(str(tiny_model)).load_model().parameters())
        assert long.needed - short.needed == 4000 * token_bytes(resolve(str(tiny_model)).load_model().config)
        assert trainer.room("local/nobody", 1000) is None
        trainer.close()


class TestLocalTrainer:
    def test_stop_leaves_a_checkpoint_to_go_on_from(self, trainer: LocalTrainer, make_job: MakeJob) -> None:
        rows, stepping = make_rows(8), threading.Event()
        lines: list[Mapping[str, Any]] = []
        checkpoints: list[Path] = []

        def on_progress(progress: TrainProgress) -> None:
            if progress.step >= 2:
                stepping.set()

        folder = make_job("job", rows, options=LONG)
        training = trainer.start(TrainRequest(folder), TrainCallbacks(on_progress, lines.append, checkpoints.append))
        assert stepping.wait(LIMIT)
        assert psutil.Process(training.pid).nice() == min(os.nice(0) + NICENESS, 19)
        assert Sign("training").is_shown()
        training.stop(grace=60)
        drained = training.wait(LIMIT)
        assert drained is not None
        assert drained.kind == "drained"
        assert not Sign("training").is_shown()
        assert drained.checkpoint == checkpoints[-1]
        step = int(checkpoints[-1].name.removeprefix("step-"))
        assert [line["step"] for line in lines] == list(range(1, step + 1))

        again = make_job("again", rows, options=LONG, resume_from=str(drained.checkpoint), max_seconds=1e-6)
        outcome = finish(trainer, again)
        assert outcome.kind == "succeeded"
        assert outcome.result is not None
        assert outcome.result["steps"] == step + 1

    def test_bad_input_is_told_apart(self, trainer: LocalTrainer, make_job: MakeJob) -> None:
        outcome = finish(trainer, make_job("job", make_rows(2), options={"max_seq_length": 8}))
        assert outcome.kind == "bad_input"
        assert outcome.error is not None
        assert (outcome.error["code"], outcome.error["param"]) == ("row_too_long", "rows")

    def test_killed_by_a_signal(self, trainer: LocalTrainer, make_job: MakeJob) -> None:
        training = trainer.start(TrainRequest(make_job("job", make_rows(2), options=LONG)), TrainCallbacks())
        os.killpg(training.pid, signal.SIGKILL)
        outcome = training.wait(LIMIT)
        assert outcome is not None
        assert (outcome.kind, outcome.signal) == ("killed", signal.SIGKILL)

    def test_stop_without_grace_kills(self, trainer: LocalTrainer, make_job: MakeJob) -> None:
        training = trainer.start(TrainRequest(make_job("job", make_rows(2), options=LONG)), TrainCallbacks())
        training.stop(grace=0)
        outcome = training.wait(LIMIT)
        assert outcome is not None
        assert outcome.kind == "killed"

    def test_crash_brings_the_log(self, make_job: MakeJob, tmp_path: Path) -> None:
        python = pretender(tmp_path, "echo the disk is gone >&2; exit 7")
        outcome = finish(LocalTrainer(str(python)), make_job("job", make_rows(2)))
        assert (outcome.kind, outcome.exit_code, outcome.log_tail) == ("crashed", 7, "the disk is gone\n")

    def test_a_trainer_that_tells_nothing_is_ended_with_all_that_it_started(
        self, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        python = pretender(tmp_path, "setsid sh -c 'echo $$ > {folder}/deaf; trap : TERM; while :; do sleep 60; done' & wait")
        folder = make_job("job", make_rows(2))
        an_hour_later(monkeypatch, folder / "deaf", again=True)
        training = LocalTrainer(str(python)).start(TrainRequest(folder, stall_seconds=1800), TrainCallbacks())
        outcome = training.wait(LIMIT)
        assert outcome is not None
        assert (outcome.kind, outcome.signal) == ("stalled", signal.SIGKILL)
        assert not psutil.pid_exists(int((folder / "deaf").read_text()))

    def test_progress_keeps_a_slow_trainer_alive(self, make_job: MakeJob, tmp_path: Path) -> None:
        told = "for i in 1 2 3 4 5 6 7 8; do touch {folder}/progress.tmp; cp {folder}/p {folder}/progress.json; sleep 0.4; done"
        folder = make_job("job", make_rows(2))
        (folder / "p").write_text(json.dumps(PROGRESS))
        python = pretender(tmp_path, told + "; echo '{{}}' > {folder}/result.json")
        training = LocalTrainer(str(python)).start(TrainRequest(folder, stall_seconds=2.5), TrainCallbacks())
        outcome = training.wait(LIMIT)
        assert outcome is not None
        assert outcome.kind == "succeeded"

    def test_after_its_deadline_it_may_write_a_checkpoint_and_is_ended(
        self, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = "trap 'mkdir -p {folder}/checkpoints/step-7; exit 3' TERM; echo ready > {folder}/ready; while :; do sleep 0.1; done"
        python = pretender(tmp_path, told)
        request = TrainRequest(make_job("job", make_rows(2)), max_seconds=1800, grace_seconds=LIMIT)
        an_hour_later(monkeypatch, request.folder / "ready")
        outcome = LocalTrainer(str(python)).start(request, TrainCallbacks()).wait(LIMIT)
        assert outcome is not None
        assert outcome.kind == "deadline"
        assert outcome.checkpoint == request.folder / "checkpoints" / "step-7"

    def test_memory_that_ran_out_is_told_with_the_trainers_own_words(self, make_job: MakeJob, tmp_path: Path) -> None:
        told = {"code": "out_of_memory", "message": "The trainer had used 3 GiB.", "param": None}
        python = pretender(tmp_path, f"echo '{json.dumps(told).replace('{', '{{').replace('}', '}}')}' > {{folder}}/error.json; exit 4")
        outcome = finish(LocalTrainer(str(python)), make_job("job", make_rows(2)))
        assert (outcome.kind, outcome.error) == ("out_of_memory", told)

    def test_memory_that_the_system_took_is_told_for_it(self, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kills = iter([3, 4])
        monkeypatch.setattr(processes, "_oom_kills", lambda: next(kills))
        outcome = finish(LocalTrainer(str(pretender(tmp_path, "kill -KILL $$"))), make_job("job", make_rows(2)))
        assert (outcome.kind, outcome.signal) == ("out_of_memory", signal.SIGKILL)
        assert outcome.error is not None
        assert "The system ran out of memory and ended the trainer" in outcome.error["message"]

    def test_failing_callback_stops_nothing(self, make_job: MakeJob, tmp_path: Path) -> None:
        folder = make_job("job", make_rows(2))
        (folder / "p").write_text(json.dumps(PROGRESS))
        python = pretender(tmp_path, "cp {folder}/p {folder}/progress.json; echo '{{}}' > {folder}/result.json")

        def refuse(_: Any) -> None:
            raise ValueError("no")

        assert finish(LocalTrainer(str(python)), folder, TrainCallbacks(on_progress=refuse)).kind == "succeeded"


class TestEnvironment:
    def test_holds_no_secret(self) -> None:
        given = {"PATH": "/bin", "DATABASE_URL": "x", "REDIS_URL": "x", "LMHOST_API_KEY": "x", "OPENAI_API_KEY": "x"}
        assert child_environment(given) == {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "STILLHOUSE_DIE_WITH_PARENT": "1"}
