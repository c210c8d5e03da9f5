"""Stock TRL on training files as they were downloaded. `python trl_session.py BASE_MODEL OUT FILE …` prints what it would learn, as JSON.

It trains one step on each file; `learned` has the text of the tokens that have loss, row by row, and `read` the whole text of each.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# They are in no environment in which types are checked.
trl: Any = import_module("trl")
datasets: Any = import_module("datasets")
NO_LOSS = -100


def learn(base: str, out: Path, file: str) -> dict[str, Any]:
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(out / "cache"))
    arguments = trl.SFTConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(model=base, args=arguments, train_dataset=rows)
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[at] for at in range(len(rows))])
    both = [list(zip(ids, labels, strict=True)) for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)]
    decode = trainer.processing_class.decode
    return {
        "learned": [decode([token for token, label in row if label != NO_LOSS]) for row in both],
        "read": [decode([token for token, _ in row]) for row in both],
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
    }


if __name__ == "__main__":
    model, folder, *files = sys.argv[1:]
    print(json.dumps([learn(model, Path(folder) / str(at), file) for at, file in enumerate(files)]))
