"""What the trainer chooses where a user leaves it open: steps count, not epochs, and what is given stands."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.spec_training import EarlyStopping as AskedEarlyStopping
from distill.spec_training import TrainOptions as Asked
from distill.trainers.local import LocalTrainer
from engines.schemas import EarlyStopping, ResolvedOptions, TrainOptions
from engines.trainer.facts import RowFacts, facts_of
from engines.trainer.options import FEWEST_STEPS, MOST_EPOCHS, resolve_options
from engines.trainer.run import make_plan, run
from tests.unit.trainer.conftest import MakeJob, make_rows

CONTEXT = 8192


def chosen(rows: int, answers: int = 2, **options: Any) -> ResolvedOptions:
    return resolve_options(TrainOptions(**options), RowFacts(rows, answers), CONTEXT)


def steps(rows: int, answers: int = 2) -> int:
    found = chosen(rows, answers)
    return math.ceil(rows / found.batch_size) * found.n_epochs


class TestSteps:
    @given(rows=st.integers(100, 5000))
    def test_no_label_is_left_with_fewer_than_it_takes(self, rows: int) -> None:
        assert steps(rows) >= FEWEST_STEPS

    @pytest.mark.parametrize(
        ("rows", "epochs", "batch_size"), [(20, 12, 8), (100, 10, 8), (200, 5, 8), (400, 3, 8), (600, 2, 8), (1600, 2, 16), (20_000, 1, 16)]
    )
    def test_few_rows_are_shown_more_often(self, rows: int, epochs: int, batch_size: int) -> None:
        assert (chosen(rows).n_epochs, chosen(rows).batch_size) == (epochs, batch_size)

    def test_texts_that_do_not_repeat_are_not_learned_by_heart(self) -> None:
        assert chosen(50, answers=2).n_epochs == MOST_EPOCHS
        assert chosen(50, answers=40).n_epochs < MOST_EPOCHS / 2

    def test_epochs_follow_the_batch_that_is_given(self) -> None:
        assert chosen(400, batch_size=32).n_epochs > chosen(400, batch_size=4).n_epochs


class TestGiven:
    def test_what_is_given_stands(self) -> None:
        asked: dict[str, Any] = {
            "n_epochs": 1,
            "batch_size": 3,
            "learning_rate": 0.5,
            "lora_r": 4,
            "lora_alpha": 4,
            "max_seq_length": 64,
            "scheduler": "cosine",
            "warmup_steps": 7,
            "weight_decay": 0.1,
            "lora_dropout": 0.2,
            "target_modules": ("q_proj",),
            "use_rslora": True,
            "max_grad_norm": 0.3,
            "label_smoothing": 0.4,
        }
        found = chosen(100, **asked).model_dump()
        assert {name: found[name] for name in asked} == asked

    def test_a_multiplier_is_of_the_chosen_rate(self) -> None:
        assert chosen(400, learning_rate_multiplier=2.0).learning_rate == 2 * chosen(400).learning_rate

    def test_labels_are_watched_by_their_matches_and_texts_by_their_loss(self) -> None:
        assert chosen(100, answers=2).best_by == "exact_match"
        assert chosen(100, answers=90).best_by == "loss"
        asked = EarlyStopping(metric="loss")
        assert chosen(100, answers=2, early_stopping=asked).best_by == "loss"

    def test_the_server_takes_the_same_options(self) -> None:
        """It knows two more, to refuse them by name."""
        assert Asked.model_fields.keys() - TrainOptions.model_fields.keys() == {"use_dora", "full_finetuning"}
        assert TrainOptions.model_fields.keys() <= Asked.model_fields.keys()
        assert AskedEarlyStopping.model_fields.keys() == EarlyStopping.model_fields.keys()


class TestFacts:
    def test_answers_are_counted_by_what_is_learned(self) -> None:
        lines = [json.dumps(row) for row in make_rows(30)]
        assert facts_of([*lines, "\n"]) == RowFacts(30, 3)
        assert facts_of(lines).has_labels
        assert not RowFacts(30, 11).has_labels


class TestResolver:
    def test_says_beforehand_what_a_training_runs_with(self, make_job: MakeJob, tiny_model: Path) -> None:
        asked = {"learning_rate": 0.01, "early_stopping": {"patience": 3}, "n_epochs": 1}
        folder = make_job("job", make_rows(10), make_rows(4, seed=1), options=asked)
        with (folder / "rows.jsonl").open("rb") as rows:
            told = LocalTrainer().resolve(str(tiny_model), asked, rows)
        run(folder, threading.Event())
        assert told == json.loads((folder / "result.json").read_text())["options"]

    def test_knows_what_the_weights_it_starts_from_have_settled(self, make_job: MakeJob, tiny_model: Path) -> None:
        first = make_job("first", make_rows(4), options={"n_epochs": 1, "lora_r": 4, "target_modules": ["q_proj"], "use_rslora": True})
        run(first, threading.Event())
        on = make_job("on", make_rows(4), start_from=str(first / "out"))
        start = json.loads((first / "out" / "adapter_config.json").read_text())
        with (on / "rows.jsonl").open("rb") as rows:
            told = LocalTrainer().resolve(str(tiny_model), {}, rows, start)
        assert told is not None
        assert (told["lora_r"], told["target_modules"], told["use_rslora"]) == (4, ["q_proj"], True)
        assert told == make_plan(on).options.model_dump(mode="json")

    def test_says_nothing_of_a_base_model_that_nobody_knows(self, make_job: MakeJob) -> None:
        with (make_job("job", make_rows(2)) / "rows.jsonl").open("rb") as rows:
            assert LocalTrainer().resolve("no-such-model", {}, rows) is None

    def test_does_without_torch(self) -> None:
        assert "torch" not in _imported_by("engines.resolver")


def _imported_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}
