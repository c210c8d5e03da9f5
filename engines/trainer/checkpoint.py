"""What a checkpoint holds beside Trainer's own state: LoRA weights now and at their best, counters, and what it belongs to."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers.trainer import TRAINER_STATE_NAME as STATE

from engines.base_models import BaseModel as Base
from engines.schemas import ResolvedOptions
from engines.schemas.trainer import Dtype
from engines.trainer.errors import BadInput
from engines.trainer.files import CONFIG, WEIGHTS, save_lora, write_json
from engines.trainer.packing import Batch
from engines.trainer.state import TENSORS, VALUES

META = "stillhouse.json"
BEST = "best.safetensors"
CURVE = "curve.jsonl"
MANIFEST = "manifest.json"
FORMATS = frozenset({".safetensors", ".json", ".jsonl"})
KEPT = 2


class Identity(BaseModel):
    """What a training is a training of; a checkpoint continues only the very same one."""

    model_config = ConfigDict(frozen=True)

    base_model: str
    base_model_digest: str
    rows_digest: str
    options: ResolvedOptions
    seed: int
    start_digest: str | None = None


class Counters(BaseModel):
    """Sums over the whole training, resumed parts included. ``stale`` counts evaluations since the last better one."""

    step: int = 0
    tokens: int = 0
    shared_tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float | None = None
    best_exact_match: float | None = None
    stale: int = 0


class Meta(BaseModel):
    """The content of a checkpoint's stillhouse.json."""

    identity: Identity
    dtype: Dtype
    counters: Counters


class FileFacts(BaseModel):
    """One file of a checkpoint."""

    size_bytes: int
    digest: str


class Manifest(BaseModel):
    """The content of a checkpoint's manifest.json: its other files."""

    files: dict[str, FileFacts]


NEEDED = (META, WEIGHTS, CONFIG, TENSORS, VALUES, STATE)


@dataclass
class Snapshot:
    """The running sums and best weights of a training; writes and reads their part of a checkpoint."""

    identity: Identity
    dtype: Dtype
    curve: Path
    counters: Counters = field(default_factory=Counters)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def count(self, batch: Batch) -> None:
        """Add a trained batch to the sums."""
        self.counters.tokens += batch.n_tokens
        self.counters.shared_tokens += batch.n_shared

    def keep_best(self, model: Any, step: int, loss: float, exact_match: float) -> None:
        """Remember the weights of ``step`` as the best so far."""
        self.counters.best_step, self.counters.best_loss, self.counters.best_exact_match = step, loss, exact_match
        self.best_weights = {name: weight.detach().to("cpu", copy=True) for name, weight in _trained(model)}

    def restore_best(self, model: Any) -> None:
        """Put the best weights back into ``model``, if any were kept."""
        with torch.no_grad():
            for name, weight in _trained(model):
                if name in self.best_weights:
                    weight.copy_(self.best_weights[name])

    def write(self, model: Any, folder: Path, step: int) -> None:
        """Write this snapshot's files into a checkpoint folder."""
        from safetensors.torch import save_file

        self.counters.step = step
        save_lora(model, folder, self.identity.base_model, self.identity.base_model_digest)
        if self.best_weights:
            save_file(self.best_weights, str(folder / BEST))
        if self.curve.is_file():
            shutil.copyfile(self.curve, folder / CURVE)
        write_json(folder / META, Meta(identity=self.identity, dtype=self.dtype, counters=self.counters))

    @classmethod
    def resumed(cls, checkpoint: Path, meta: Meta, curve: Path) -> Snapshot:
        """The snapshot that ``checkpoint`` holds; ``curve`` becomes the curve up to its step."""
        from safetensors.torch import load_file

        best = load_file(str(checkpoint / BEST)) if (checkpoint / BEST).is_file() else {}
        if (checkpoint / CURVE).is_file():
            shutil.copyfile(checkpoint / CURVE, curve)
        return cls(meta.identity, meta.dtype, curve, meta.counters, best)


def read_meta(checkpoint: Path, identity: Identity) -> Meta:
    """What ``checkpoint`` says of itself. Raises BadInput if it is not whole, or of another training than ``identity``."""
    if fault := _fault(checkpoint):
        raise BadInput("checkpoint_unreadable", f"The checkpoint {checkpoint.name!r} cannot be read: {fault}.", "resume_from")
    try:
        meta = Meta.model_validate_json((checkpoint / META).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise BadInput("checkpoint_unreadable", f"The checkpoint {checkpoint.name!r} cannot be read: {error}", "resume_from") from error
    differing = [name for name in Identity.model_fields if getattr(meta.identity, name) != getattr(identity, name)]
    if differing:
        message = f"The checkpoint {checkpoint.name!r} is of another training: {', '.join(differing)} differ."
        raise BadInput("checkpoint_mismatch", message, "resume_from")
    return meta


def write_manifest(folder: Path) -> None:
    """Name every file with its size and digest. Written last: a checkpoint without it was never finished."""
    files = {place.name: _facts(place) for place in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, Manifest(files=files))


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not what was written, file by file; None when it is."""
    try:
        manifest = Manifest.model_validate_json((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        found = {place.name: place for place in checkpoint.iterdir() if place.name != MANIFEST}
        if missing := {*NEEDED, *manifest.files} - found.keys():
            return f"{min(missing)} is missing"
        if unknown := [name for name in sorted(found) if name not in manifest.files or Path(name).suffix not in FORMATS]:
            return f"{unknown[0]} does not belong to it"
        damaged = [name for name, place in found.items() if _facts(place) != manifest.files[name]]
    except (OSError, ValidationError) as error:
        return type(error).__name__
    return f"{damaged[0]} is damaged" if damaged else None


def _facts(place: Path) -> FileFacts:
    with place.open("rb") as file:
        return FileFacts(size_bytes=place.stat().st_size, digest="sha256:" + hashlib.file_digest(file, "sha256").hexdigest())


def identity_of(base: Base, rows: list[Path], options: ResolvedOptions, seed: int, start: Path | None) -> Identity:
    """The identity of a training on ``rows`` (the row files; order counts) that begins with the weights in ``start``."""
    digest = hashlib.sha256()
    for path in rows:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Identity(
        base_model=base.id,
        base_model_digest=base.digest,
        rows_digest=f"sha256:{digest.hexdigest()}",
        options=options,
        seed=seed,
        start_digest=None if start is None else _facts(start).digest,
    )


def remove_old_checkpoints(root: Path) -> None:
    """Keep the newest checkpoints, by step."""
    steps = sorted(root.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
    for folder in steps[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
