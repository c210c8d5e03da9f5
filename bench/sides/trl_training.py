"""The other side of training: TRL's SFTTrainer on a work folder that our trainer reads too; it leaves the same kinds of files.

`python -m bench.sides.trl_training WORK_DIR`. Options are TRL's own but for those that the job names, and two that would slow it down
here: bfloat16 (half as fast on many CPUs) and gradient checkpointing (which computes every layer twice).
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engines.base_models import resolve
from engines.schemas import ResolvedOptions, TrainerJob
from engines.trainer.facts import facts_of
from engines.trainer.options import resolve_options

# An extra that is not there when types are checked.
trl: Any = import_module("trl")
datasets: Any = import_module("datasets")


class Curve(TrainerCallback):  # type: ignore[misc]  # transformers is read as untyped
    """One line of curve.jsonl a training step, with the time of its end."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, "at": time.time()}) + "\n")


def train(folder: Path, threads: int) -> None:
    """Train on `rows.jsonl`, and leave curve.jsonl, `out/` and result.json."""
    torch.set_num_threads(threads)
    job = TrainerJob.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    lines = (folder / job.rows).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    base = resolve(job.base_model)
    options = resolve_options(job.options, facts_of(lines), 8192)
    trainer = trl.SFTTrainer(
        model=base.load_model(torch.float32),
        args=_arguments(folder, options, job.seed),
        train_dataset=datasets.Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]),
        processing_class=base.load_tokenizer(),
        callbacks=[Curve(folder / "curve.jsonl")],
        peft_config=LoraConfig(
            r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "out"))
    tokens = sum(len(each) for each in trainer.train_dataset["input_ids"])
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    (folder / "result.json").write_text(json.dumps({"tokens_an_epoch": tokens, "final_loss": losses[-1]}))


def _arguments(folder: Path, options: ResolvedOptions, seed: int) -> Any:
    return trl.SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=options.n_epochs,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=1,
        max_length=options.max_seq_length,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
