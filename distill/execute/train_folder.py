"""The work folder of one attempt at a training: what the trainer reads. Each attempt has its own, named by its fence."""

import json
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import select

from distill import spec
from distill.db import Session
from distill.jobs.models import FineTuneJob
from distill.jobs.status import FineTuneStatus
from distill.storage import BlobStore

SCHEMA_VERSION = 1


def training_digest(key: FineTuneJob, seed: int, base_digest: str) -> str:
    """Of what the trainer is given for a key, and the weights it starts from. Raises RuntimeError without rows."""
    if key.training_file is None:
        raise RuntimeError(f"fine-tune job {key.id} has no training file")
    return spec.training_digest(
        trainer=key.trainer,
        base=base_digest,
        rows=key.training_file,
        validation_rows=key.validation_file,
        options=_options(key),
        seed=seed,
        schema_version=SCHEMA_VERSION,
    )


def make(folder: Path, store: BlobStore, key: FineTuneJob, seed: int, resume_from: Path | None) -> Path:
    """Write job.json and the rows. `resume_from` is a checkpoint of an earlier attempt. Raises StorageError, RuntimeError without rows."""
    if key.training_file is None:
        raise RuntimeError(f"fine-tune job {key.id} has no training file")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy(store, key.training_file, folder / "rows.jsonl")
    if key.validation_file is not None:
        _copy(store, key.validation_file, folder / "validation.jsonl")
    (folder / "job.json").write_text(json.dumps(_job(key, seed, resume_from)), encoding="utf-8")
    return folder


def _job(key: FineTuneJob, seed: int, resume_from: Path | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "base_model": key.base_model,
        "rows": "rows.jsonl",
        "validation_rows": "validation.jsonl" if key.validation_file else None,
        "options": _options(key),
        "seed": seed,
        "resume_from": str(resume_from) if resume_from else None,
        "max_seconds": None,
    }


def _options(key: FineTuneJob) -> dict[str, Any]:
    options = dict(key.options)
    if key.validation_file is None:
        options["early_stopping"] = None  # nothing would watch the training
    return options


def _copy(store: BlobStore, digest: str, place: Path) -> None:
    with store.open(digest) as source, place.open("wb") as target:
        shutil.copyfileobj(source, target)


def newest(home: Path) -> Path | None:
    """The checkpoint with the most training steps among all attempts of a fine-tune job, if there is one on this machine."""
    found = {(int(place.name.removeprefix("step-")), place) for place in home.glob("*/checkpoints/step-*") if place.is_dir()}
    return max(found)[1] if found else None


def sweep(s: Session, root: Path) -> None:
    """Remove what fine-tune jobs that are over have left on this machine."""
    homes = {place.name: place for place in root.glob("ftjob-*")}
    going = (FineTuneStatus.QUEUED, FineTuneStatus.RUNNING)
    alive = set(s.scalars(select(FineTuneJob.id).where(FineTuneJob.id.in_(homes), FineTuneJob.status.in_(going))))
    for name in homes.keys() - alive:
        shutil.rmtree(homes[name], ignore_errors=True)
