"""The files of an artifact's folder: read, and held against the hashes of its manifest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
NEEDED = ("program.json", "spec.json")
_MANIFEST_KEYS = ("files", "program_name", "prompt_adapter", "prompt_hash", "prompt_samples")
_CHUNK = 1 << 20


class ArtifactError(ValueError):
    """An artifact that cannot be used: a file is missing, changed or not known."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an artifact. Raises ArtifactError for another format."""
    manifest: dict[str, Any] = read_json(folder, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"{MANIFEST} has the format {manifest.get('format')!r}; this version reads format {FORMAT}")
    missing = [key for key in _MANIFEST_KEYS if key not in manifest]
    if missing:
        raise ArtifactError(f"{MANIFEST} lacks `{missing[0]}`")
    return manifest


def read_json(folder: Path, name: str) -> Any:
    """Return the content of a JSON file. Raises ArtifactError."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} has no {name}") from None
    except ValueError as error:
        raise ArtifactError(f"{name} is not JSON: {error}") from None


def verify_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold every file of the manifest against its SHA-256. Raises ArtifactError with the first that differs."""
    unlisted = [name for name in NEEDED if name not in files]
    if unlisted:
        raise ArtifactError(f"{MANIFEST} does not list {unlisted[0]}")
    for name, expected in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{MANIFEST} lists {name}, which is outside the artifact")
        if file_hash(folder / name) != expected["sha256"].removeprefix("sha256:"):
            raise ArtifactError(f"{name} was changed: it does not have the SHA-256 of {MANIFEST}")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises ArtifactError if it is missing."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (FileNotFoundError, IsADirectoryError):
        raise ArtifactError(f"the artifact lacks the file {path.name}") from None
    return digest.hexdigest()
