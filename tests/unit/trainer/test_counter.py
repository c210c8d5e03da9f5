"""The token counter counts what the trainer will read, without torch, and goes on after its process has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.trainers import CannotCount, LocalTrainer
from engines.base_models import resolve
from engines.schemas import TrainingRow
from engines.trainer.rows import encode
from tests.unit.trainer.conftest import make_rows

DEMOS = [{"role": "user", "content": "who is it"}, {"role": "assistant", "content": "human"}]


@pytest.fixture(scope="module")
def trainer() -> Iterator[LocalTrainer]:
    trainer = LocalTrainer()
    yield trainer
    trainer.close()


def with_demos(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": [row["prompt"][0], *DEMOS, *row["prompt"][1:]]}


class TestCount:
    def test_counts_are_the_trainers_own(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        rows = [*make_rows(5), *(with_demos(row) for row in make_rows(5, seed=1))]
        tokenizer = resolve(str(tiny_model)).load_tokenizer()
        encoded = [encode(TrainingRow.model_validate(row), tokenizer, "row", "rows") for row in rows]
        counts = trainer.count(str(tiny_model), "auto", rows)
        assert [(row.prompt, row.completion) for row in counts.rows] == [(each.prompt_length, each.n_targets) for each in encoded]
        assert counts.longest == 2048

    def test_the_longest_row_is_bounded_by_what_was_asked_and_by_the_model(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        assert trainer.count(str(tiny_model), 100, []).longest == 100
        assert trainer.count(str(tiny_model), 100_000, []).longest == 2048

    def test_a_row_that_cannot_be_trained_on_says_why_and_the_others_are_counted(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        good = make_rows(1)[0]
        first, second = trainer.count(str(tiny_model), "auto", [{**good, "completion": []}, good]).rows
        assert first.fault is not None
        assert (second.fault, second.completion > 0) == (None, True)

    def test_an_unknown_base_model_is_named(self, trainer: LocalTrainer) -> None:
        with pytest.raises(CannotCount, match="no-such-model"):
            trainer.count("no-such-model", "auto", [])

    def test_a_process_that_has_ended_is_started_again(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        before = trainer.count(str(tiny_model), "auto", make_rows(1))
        process = trainer._counter._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert trainer.count(str(tiny_model), "auto", make_rows(1)) == before
