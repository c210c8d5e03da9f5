"""One training from its work folder to its result."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PrinterCallback, TrainingArguments, set_seed

from engines.base_models import BaseModel, BaseModelError, resolve
from engines.schemas import ResolvedOptions, TrainerJob, TrainerResult
from engines.schemas.trainer import Dtype
from engines.trainer.callbacks import Limits, Reporter, Threads, Validation
from engines.trainer.checkpoint import Identity, Snapshot, identity_of, read_meta
from engines.trainer.errors import BadInput
from engines.trainer.facts import facts_of
from engines.trainer.files import WEIGHTS, folder_in_place, load_lora, save_lora, write_json
from engines.trainer.grouping import PrefixBatchSampler, prefix_groups
from engines.trainer.loop import SharedPrefixTrainer
from engines.trainer.memory import peak_memory_bytes, tokens_that_fit
from engines.trainer.model import Targets, make_fast, pass_targets, plain_targets, with_lora
from engines.trainer.options import longest_row, resolve_options
from engines.trainer.packing import Collator, Pass
from engines.trainer.precision import choose_dtype
from engines.trainer.rows import EncodedRow, encode_file
from engines.trainer.start import options_of_start

logger = logging.getLogger(__name__)

Rows = list[tuple[int, EncodedRow]]


class Drained(Exception):
    """Training stopped on request; a checkpoint is written if a training step was made."""


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the model is loaded. Rows are paired with their prefix group."""

    folder: Path
    job: TrainerJob
    base: BaseModel
    start: Path | None
    options: ResolvedOptions
    identity: Identity
    rows: Rows
    validation: Rows
    sampler: PrefixBatchSampler

    @property
    def total_steps(self) -> int:
        """Training steps if nothing stops it early."""
        return len(self.sampler) * self.options.n_epochs


def run(folder: Path, stop: threading.Event) -> TrainerResult:
    """Train the job in ``folder`` and write ``out/`` and ``result.json``.

    Raises BadInput for a job that cannot be trained, Drained after ``stop`` was set.
    """
    started = time.monotonic()
    plan = make_plan(folder)
    if stop.is_set():
        raise Drained
    snapshot, checkpoint = _snapshot(plan)
    set_seed(plan.job.seed)
    model = with_lora(plan.base, plan.options, snapshot.dtype)
    if plan.start is not None:
        load_lora(model, plan.start)
    trainer, limits, validation = _trainer(plan, model, snapshot, stop)
    logger.info("training %d rows in %d steps, %s", len(plan.rows), plan.total_steps, snapshot.dtype)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if limits.reason == "drained":
        raise Drained
    snapshot.restore_best(model)
    with folder_in_place(folder / "out") as out:
        save_lora(model, out, plan.base.id, plan.base.digest)
    result = _result(plan, snapshot, trainer, limits, validation, time.monotonic() - started)
    write_json(folder / "result.json", result)
    return result


def make_plan(folder: Path) -> Plan:
    """Read and check the job and its rows. Raises BadInput."""
    job = _read_job(folder)
    try:
        base = resolve(job.base_model)
        tokenizer = base.load_tokenizer()
        context = json.loads((base.folder() / "config.json").read_text())["max_position_embeddings"]
    except (BaseModelError, OSError, KeyError, ValueError) as error:
        raise BadInput("base_model_unusable", str(error), "base_model") from error
    start = None if job.start_from is None else folder / job.start_from
    given = job.options if start is None else options_of_start(start, base, job.options)
    longest = longest_row(given, context)
    rows = encode_file(folder / job.rows, tokenizer, longest, "rows")
    if not rows:
        raise BadInput("rows_empty", "There is no row to train on.", "rows")
    held_out = encode_file(folder / job.validation_rows, tokenizer, longest, "validation_rows") if job.validation_rows else []
    with (folder / job.rows).open(encoding="utf-8") as lines:
        options = resolve_options(given, facts_of(lines), context)
    if options.early_stopping and not held_out:
        raise BadInput("validation_rows_missing", "Early stopping needs validation rows.", "options.early_stopping")
    files = [folder / job.rows] + ([folder / job.validation_rows] if job.validation_rows else [])
    identity = identity_of(base, files, options, job.seed, start and start / WEIGHTS)
    sampler = PrefixBatchSampler(rows, options.batch_size, job.seed)
    return Plan(folder, job, base, start, options, identity, sampler.paired(), _in_groups(held_out, options.batch_size), sampler)


def _read_job(folder: Path) -> TrainerJob:
    try:
        return TrainerJob.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput("job_missing", f"job.json cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("int", "float", "literal['auto']"))
        raise BadInput("job_invalid", f"{where or 'job.json'}: {first['msg']}", where or None) from error


def _in_groups(rows: list[EncodedRow], batch_size: int) -> Rows:
    """Validation rows in the order they are evaluated in: group by group, the shortest first."""
    groups = prefix_groups(rows, batch_size)
    return [(number, rows[i]) for number, group in enumerate(groups) for i in sorted(group, key=lambda i: len(rows[i].ids))]


def _snapshot(plan: Plan) -> tuple[Snapshot, Path | None]:
    """A fresh snapshot, or that of the checkpoint to resume from, with its folder."""
    curve = plan.folder / "curve.jsonl"
    if plan.job.resume_from is None:
        curve.unlink(missing_ok=True)
        return Snapshot(plan.identity, _dtype(plan), curve), None
    checkpoint = plan.folder / plan.job.resume_from
    return Snapshot.resumed(checkpoint, read_meta(checkpoint, plan.identity), curve), checkpoint


def _dtype(plan: Plan) -> Dtype:
    if plan.job.dtype != "auto":
        return plan.job.dtype
    config = json.loads((plan.base.folder() / "config.json").read_text())
    hidden = config["hidden_size"]
    return choose_dtype(hidden, config.get("intermediate_size", 4 * hidden), device())


def device() -> torch.device:
    """What this process trains on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _trainer(plan: Plan, model: Any, snapshot: Snapshot, stop: threading.Event) -> tuple[SharedPrefixTrainer, Limits, Validation]:
    reporter = Reporter(plan.folder, snapshot)
    limits = Limits(stop, plan.job.max_seconds, plan.job.checkpoint_seconds, validates=bool(plan.validation))
    validation = Validation(snapshot, plan.options)
    arguments = _arguments(plan)
    model.to(arguments.device)
    share = make_fast(model, plan.rows[:2], snapshot.dtype, arguments.device)

    def targets_of(wrapped: Any, one: Pass) -> Targets:
        if share:
            return pass_targets(wrapped, one, snapshot.dtype)
        return plain_targets(wrapped, one.rows, snapshot.dtype, arguments.device)

    collator = Collator(tokens_that_fit(model.config, arguments.device), share=share)
    trainer = SharedPrefixTrainer(
        model,
        arguments,
        plan.rows,
        plan.validation,
        collator=collator,
        sampler=plan.sampler,
        targets_of=targets_of,
        options=plan.options,
        snapshot=snapshot,
        reporter=reporter,
        callbacks=[validation, limits, *([Threads()] if arguments.device.type == "cpu" else [])],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, limits, validation


def _arguments(plan: Plan) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(plan.folder / "checkpoints"),
        per_device_train_batch_size=plan.options.batch_size,
        per_device_eval_batch_size=plan.options.batch_size,
        num_train_epochs=plan.options.n_epochs,
        learning_rate=plan.options.learning_rate,
        warmup_steps=_warmup_steps(plan),
        optim="adamw_torch",
        adam_beta2=0.99,
        weight_decay=plan.options.weight_decay,
        max_grad_norm=plan.options.max_grad_norm,
        logging_steps=1,
        eval_strategy="steps" if plan.validation else "no",
        eval_steps=len(plan.sampler),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=plan.job.seed,
    )
    # Two or more GPUs would make Trainer copy the model to each and split a batch that cannot be split.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _warmup_steps(plan: Plan) -> int:
    given = plan.options.warmup_steps
    return math.ceil(plan.options.warmup_ratio * plan.total_steps) if given is None else min(given, plan.total_steps)


def _result(
    plan: Plan, snapshot: Snapshot, trainer: SharedPrefixTrainer, limits: Limits, validation: Validation, seconds: float
) -> TrainerResult:
    counters, steps = snapshot.counters, trainer.state.global_step
    return TrainerResult(
        stopped_by="early_stopping" if validation.stopped else limits.reason or "completed",
        steps=steps,
        epochs=trainer.state.epoch or 0.0,
        rows=len(plan.rows),
        validation_rows=len(plan.validation),
        tokens=counters.tokens,
        tokens_per_second=counters.tokens / max(counters.seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(),
        seconds=seconds,
        dtype=snapshot.dtype,
        best_step=counters.best_step or steps,
        final_loss=trainer.final_loss,
        validation_loss=counters.best_loss,
        validation_exact_match=counters.best_exact_match,
        base_model=plan.base.id,
        base_model_digest=plan.base.digest,
        shared_prefix_tokens=counters.shared_tokens,
        options=plan.options,
    )
