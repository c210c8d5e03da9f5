"""transformers' Trainer over packed batches: its schedule, optimizer, callbacks and resumption; our step and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from engines.schemas import ResolvedOptions
from engines.schemas.options import Scheduler
from engines.trainer.callbacks import Reporter
from engines.trainer.checkpoint import Snapshot, remove_old_checkpoints, write_manifest
from engines.trainer.errors import BadInput
from engines.trainer.files import folder_in_place, load_lora
from engines.trainer.grouping import PrefixBatchSampler
from engines.trainer.model import Targets
from engines.trainer.packing import Batch, Collator, Pass
from engines.trainer.rows import EncodedRow
from engines.trainer.state import load_optimizer, load_random, save_state


def schedule(kind: Scheduler, warmup: int, steps: int) -> Callable[[int], float]:
    """What share of the learning rate a step has, counted from 0: it rises over ``warmup`` steps, and falls to 0 at the end or stays."""
    rise, fall = max(warmup, 1), max(steps - warmup, 1)

    def share(step: int) -> float:
        left = min(max(steps - step, 0) / fall, 1.0)
        after = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[kind]
        return min((step + 1) / rise, after)

    return share


class SharedPrefixTrainer(Trainer):
    """Trains on Batches. The loss of ``targets_of(model, pass)`` is summed; a step divides it by the batch's number of targets."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        rows: list[tuple[int, EncodedRow]],
        validation: list[tuple[int, EncodedRow]],
        *,
        collator: Collator,
        sampler: PrefixBatchSampler,
        targets_of: Callable[[Any, Pass], Targets],
        options: ResolvedOptions,
        snapshot: Snapshot,
        reporter: Reporter,
        callbacks: list[Any],
    ) -> None:
        self.control: Any
        self.lr_scheduler: Any
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=validation or None,
            callbacks=[reporter, *callbacks],
        )
        self._reporter = reporter
        self._sampler = sampler
        self._targets_of = targets_of
        self._options = options
        self._snapshot = snapshot
        self._collate = collator
        self._validation = validation

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by prefix group and length."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_sampler=self._sampler, collate_fn=lambda rows: {"batch": self._collate(rows)}
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up, then the schedule. Unlike in Trainer's own, the first step already has a learning rate."""
        if self.lr_scheduler is None:
            share = schedule(self._options.scheduler, self.args.get_warmup_steps(num_training_steps), num_training_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One batch forward and backward, pass by pass; returns the mean loss per target."""
        model.train()
        batch: Batch = inputs["batch"].to(self.args.device)
        total = torch.zeros((), device=self.args.device)
        for one in batch.passes:
            loss = self._targets_of(model, one).loss(self._options.label_smoothing) / batch.n_targets
            self.accelerator.backward(loss)
            total += loss.detach()
        if not torch.isfinite(total):
            raise BadInput("diverged", f"The loss became {total.item()} after step {self.state.global_step}.", "options.learning_rate")
        self._snapshot.count(batch)
        return total

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Over the validation rows: ``eval_loss``, the mean loss per target, and ``eval_exact_match``, the share of rows all right."""
        self.model.eval()
        summed, targets, exact = 0.0, 0, 0
        size = max(self.args.per_device_eval_batch_size, 1)
        with torch.no_grad():
            for start in range(0, len(self._validation), size):
                batch = self._collate(self._validation[start : start + size]).to(self.args.device)
                for one in batch.passes:
                    found = self._targets_of(self.model, one)
                    summed += found.loss().item()
                    exact += found.exact_matches()
                targets += batch.n_targets
                self._reporter.touch()
        metrics = {f"{metric_key_prefix}_loss": summed / targets, f"{metric_key_prefix}_exact_match": exact / len(self._validation)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def final_loss(self) -> float:
        """The loss of the last training step."""
        return next(float(line["loss"]) for line in reversed(self.state.log_history) if "loss" in line)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate knows no packed batches."""
        return 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Everything that resuming needs, in ``checkpoints/step-<n>``, which appears in one piece; two are kept."""
        self._reporter.flush()
        root = Path(self.args.output_dir)
        with folder_in_place(root / f"step-{self.state.global_step}") as folder:
            self._snapshot.write(self.model, folder, self.state.global_step)
            save_state(folder, self.optimizer, self.lr_scheduler)
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            write_manifest(folder)
        remove_old_checkpoints(root)

    # What Trainer calls when it resumes; its own read pickles where they find any.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_lora(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: float16 is not offered."""
