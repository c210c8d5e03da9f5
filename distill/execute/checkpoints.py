"""Checkpoints between a trainer's work folder and the blob store."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from distill.db import unit_of_work
from distill.errors import StorageError
from distill.jobs import checkpoints
from distill.jobs.claims import Claim
from distill.storage import BlobStore, put_folder

log = structlog.get_logger(__name__)

MANIFEST = "manifest.json"
"""The trainer writes it last, with the size and digest of every other file; so does who publishes read it."""


def step_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def publish(claim: Claim, store: BlobStore, place: Path) -> bool:
    """Put a checkpoint folder into the store and point at it; False where that was not possible: no reason to stop a training.

    Raises LostLease.
    """
    try:
        files = _put(store, place)
        with unit_of_work() as s:
            checkpoints.record(s, claim, store, step_of(place), files)
    except (StorageError, OSError, ValueError, KeyError) as error:
        # A full disk; or the trainer has removed the folder meanwhile, having written two others.
        log.warning("checkpoint_not_published", step=step_of(place), error=str(error))
        return False
    return True


def _put(store: BlobStore, place: Path) -> dict[str, dict[str, Any]]:
    """Raises ValueError for a file that is not what the manifest says."""
    told = json.loads((place / MANIFEST).read_bytes())["files"]
    files = put_folder(store, place)
    if differing := [name for name in sorted({*told, *files} - {MANIFEST}) if told.get(name) != files.get(name)]:
        raise ValueError(f"{differing[0]} is not what was written")
    return files


def restore(store: BlobStore, files: Mapping[str, Mapping[str, Any]], place: Path) -> None:
    """Write a checkpoint's files, each checked against its digest, into a new folder. Raises StorageError."""
    place.mkdir(parents=True)
    for name, entry in files.items():
        with store.open(entry["digest"]) as source, (place / Path(name).name).open("xb") as target:
            shutil.copyfileobj(source, target)
