"""The trainer as a process: how it is started, followed, stopped and judged."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.trainers import LocalTrainer, TrainCallbacks, TrainOutcome, TrainProgress, TrainRequest
from distill.trainers.environment import child_environment
from engines.base_models import resolve
from tests.unit.trainer.conftest import MakeJob, make_rows

LONG = {"n_epochs": 2000, "batch_size": 4}
LIMIT = 90.0


@pytest.fixture
def trainer() -> Iterator[LocalTrainer]:
    trainer = LocalTrainer(extra_environment={"OMP_NUM_THREADS": "1"})
    yield trainer
    trainer.close()


def finish(trainer: LocalTrainer, folder: Path, callbacks: TrainCallbacks | None = None) -> TrainOutcome:
    outcome = trainer.start(TrainRequest(folder), callbacks or TrainCallbacks()).wait(LIMIT)
    assert outcome is not None
    return outcome


class TestBaseDigest:
    def test_it_is_that_of_the_weights_and_none_for_a_model_that_nobody_knows(self, tiny_model: Path) -> None:
        trainer = LocalTrainer(extra_environment={"STILLHOUSE_MODELS": str(tiny_model.parent)})
        assert trainer.base_digest(f"local/{tiny_model.name}") == resolve(str(tiny_model)).digest
        assert trainer.base_digest("local/nobody") is None
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
        training.stop(grace=60)
        drained = training.wait(LIMIT)
        assert drained is not None
        assert drained.kind == "drained"
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
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho the disk is gone >&2\nexit 7\n")
        python.chmod(0o755)
        outcome = finish(LocalTrainer(str(python)), make_job("job", make_rows(2)))
        assert (outcome.kind, outcome.exit_code, outcome.log_tail) == ("crashed", 7, "the disk is gone\n")

    def test_failing_callback_stops_nothing(self, make_job: MakeJob, tmp_path: Path) -> None:
        folder = make_job("job", make_rows(2))
        progress = {"step": 1, "total_steps": 2, "epoch": 0.5, "percent": 50.0, "seconds_remaining": None}
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho '{json.dumps(progress)}' > {folder}/progress.json\necho '{{}}' > {folder}/result.json\n")
        python.chmod(0o755)

        def refuse(_: Any) -> None:
            raise ValueError("no")

        assert finish(LocalTrainer(str(python)), folder, TrainCallbacks(on_progress=refuse)).kind == "succeeded"


class TestEnvironment:
    def test_holds_no_secret(self) -> None:
        given = {"PATH": "/bin", "DATABASE_URL": "x", "REDIS_URL": "x", "LMHOST_API_KEY": "x", "OPENAI_API_KEY": "x"}
        assert child_environment(given) == {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "STILLHOUSE_DIE_WITH_PARENT": "1"}
