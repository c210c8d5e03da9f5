"""The work folder of one attempt at a training: what the trainer reads. Each attempt has its own, named by its fence."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from distill import spec
from distill.db import Session
from distill.execute import checkpoints
from distill.jobs.models import FineTuneJob
from distill.jobs.status import FineTuneStatus
from distill.storage import BlobStore

SCHEMA_VERSION = 1
START = "start"
"""The folder with the LoRA weights that a training begins with, where it has some."""


@dataclass(frozen=True)
class Start:
    """The LoRA weights of a fine-tuned model, which a training begins with: `{name: {"digest", "size_bytes"}}`."""

    files: Mapping[str, Mapping[str, Any]]

    def config(self, store: BlobStore) -> dict[str, Any]:
        """How its LoRA adapter is made. Raises StorageError."""
        found: dict[str, Any] = json.loads(store.read(self.files["adapter_config.json"]["digest"]))
        return found

    @property
    def digest(self) -> str:
        return spec.digest({name: self.files[name]["digest"] for name in sorted(self.files)})


def training_digest(key: FineTuneJob, seed: int, base_digest: str, options: Mapping[str, Any], start: Start | None = None) -> str:
    """Of what the trainer is given for a key, the options that it runs with, and the weights it starts from. Raises RuntimeError without
    rows."""
    if key.training_file is None:
        raise RuntimeError(f"fine-tune job {key.id} has no training file")
    return spec.training_digest(
        trainer=key.trainer,
        base=base_digest if start is None else f"{base_digest}+{start.digest}",
        rows=key.training_file,
        validation_rows=key.validation_file,
        options=options,
        seed=seed,
        schema_version=SCHEMA_VERSION,
    )


def make(folder: Path, store: BlobStore, key: FineTuneJob, start: Start | None = None) -> None:
    """A new folder with the rows, and the weights that the training begins with. Raises StorageError, RuntimeError without rows."""
    if key.training_file is None:
        raise RuntimeError(f"fine-tune job {key.id} has no training file")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy(store, key.training_file, folder / "rows.jsonl")
    if key.validation_file is not None:
        _copy(store, key.validation_file, folder / "validation.jsonl")
    if start is not None:
        checkpoints.restore(store, start.files, folder / START)


def describe(folder: Path, key: FineTuneJob, seed: int, resume_from: Path | None, checkpoint_seconds: float) -> None:
    """Write job.json. `resume_from` is a checkpoint in the folder."""
    job = {
        "schema_version": SCHEMA_VERSION,
        "base_model": key.base_model,
        "rows": "rows.jsonl",
        "validation_rows": "validation.jsonl" if key.validation_file else None,
        "options": options_of(key),
        "seed": seed,
        "resume_from": str(resume_from.relative_to(folder)) if resume_from else None,
        "max_seconds": None,
        "checkpoint_seconds": checkpoint_seconds,
        **({"start_from": START} if (folder / START).is_dir() else {}),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def options_of(key: FineTuneJob) -> dict[str, Any]:
    """What is asked of the trainer."""
    options = dict(key.options)
    if key.validation_file is None:
        options["early_stopping"] = None  # nothing would watch the training
    return options


def _copy(store: BlobStore, digest: str, place: Path) -> None:
    with store.open(digest) as source, place.open("wb") as target:
        shutil.copyfileobj(source, target)


def keep_log(s: Session, fine_tune_job_id: str, digest: str) -> None:
    """The log of an attempt that has ended; it is a registered blob."""
    s.execute(update(FineTuneJob).where(FineTuneJob.id == fine_tune_job_id).values(log=digest, log_tail=None))


def sweep(s: Session, root: Path) -> None:
    """Remove what the killed attempts of fine-tune jobs that are over have left on this machine."""
    homes = {place.name: place for place in root.glob("ftjob-*")}
    going = (FineTuneStatus.QUEUED, FineTuneStatus.RUNNING)
    alive = set(s.scalars(select(FineTuneJob.id).where(FineTuneJob.id.in_(homes), FineTuneJob.status.in_(going))))
    for name in homes.keys() - alive:
        shutil.rmtree(homes[name], ignore_errors=True)
