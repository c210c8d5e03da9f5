"""What `finetune_lms` is given, in the form of dspy.BootstrapFinetune: one entry for each training of a compile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy

Key = tuple[Any, "int | None"]
"""An LM of the student, and the number of the predictor that has a model of its own; None with `multitask`."""


class Trainings(dict[Key, dict[str, Any]]):
    """`{key: {"lm", "train_kwargs"}}`. Unlike upstream's it holds no rows: the server makes them, in the job that trains on them."""

    def __init__(self, student: dspy.Module, multitask: bool, options: Mapping[Any, Any], job: Callable[[], dspy.Module]) -> None:
        self.keys_by_predictor: list[Key] = [
            (predictor.lm, None if multitask else number) for number, predictor in enumerate(student.predictors())
        ]
        super().__init__({key: {"lm": key[0], "train_kwargs": options[key[0]]} for key in self.keys_by_predictor})
        self._job = job
        self.program: dspy.Module | None = None
        """The compiled program, once the job has made it."""
        self.made: dict[Key, Any] = {}

    def run(self) -> dict[Key, Any]:
        """The fine-tuned LMs by key. Raises as `BootstrapFinetune.compile`."""
        self.program = self._job()
        tuned = [predictor.lm for predictor in self.program.predictors()]
        self.made = dict(zip(self.keys_by_predictor, tuned, strict=True))
        return dict(self.made)

    def give(self, program: dspy.Module, lms: Mapping[Key, Any]) -> None:
        """Set the LMs of a program that are others than those of the job. Raises RuntimeError for a training that failed."""
        for number, (key, predictor) in enumerate(zip(self.keys_by_predictor, program.predictors(), strict=True)):
            if isinstance(fault := lms[key], Exception):
                raise RuntimeError(f"Finetuned LM for predictor {number} failed.") from fault
            if lms[key] is not self.made.get(key):
                predictor.lm = lms[key]


def check_lms(student: dspy.Module) -> None:
    """Raises ValueError, in upstream's words, for a predictor without an LM of its own: one that the app configures is not trained."""
    for number, predictor in enumerate(student.predictors()):
        if predictor.lm is None:
            raise ValueError(
                f"Predictor {number} does not have an LM assigned. "
                "Please ensure the module's predictors have their LM set before fine-tuning. "
                "You can set it using: your_module.set_lm(your_lm)"
            )
