"""Unpacking an artifact: nothing outside its folder, every file with the digest the server named, all or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from stillhouse._exceptions import DamagedArtifact
from stillhouse.types import ArtifactFile


def install(archive: IO[bytes], files: Sequence[ArtifactFile], folder: Path) -> Path:
    """Unpack a tar.gz beside `folder`, check it, then rename it into place.

    Raises:
        DamagedArtifact: a file is missing, extra or changed.
        FileExistsError: `folder` exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    unpacked = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _unpack(archive, {file.path for file in files}, unpacked)
        check(unpacked, files)
        if folder.exists():
            folder.rmdir()
        os.replace(unpacked, folder)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return folder


def _unpack(archive: IO[bytes], expected: set[str], target: Path) -> None:
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                _unpack_one(tar, member, expected, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DamagedArtifact(f"the archive cannot be read: {error}") from error


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, expected: set[str], target: Path) -> None:
    """Only plain files that the server listed; their listed paths are inside the folder."""
    if not member.isfile() or member.name not in expected:
        raise DamagedArtifact(f"the archive holds something that the artifact does not list: {member.name}")
    path = target / member.name
    if not path.resolve().is_relative_to(target.resolve()):
        raise DamagedArtifact(f"the archive holds a path outside its folder: {member.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise DamagedArtifact(f"the archive holds no data for {member.name}")
    with source, path.open("wb") as out:
        shutil.copyfileobj(source, out)


def is_intact(folder: Path, files: Sequence[ArtifactFile]) -> bool:
    """Whether `folder` holds all of these files unchanged."""
    try:
        check(folder, files)
    except DamagedArtifact:
        return False
    return True


def check(folder: Path, files: Sequence[ArtifactFile]) -> None:
    """Compare every listed file with its digest. Raises DamagedArtifact with the first that differs."""
    for file in files:
        path = folder / file.path
        if not path.is_file() or digest_of(path) != file.digest:
            raise DamagedArtifact(f"{file.path} is missing or does not have the digest {file.digest}")


def digest_of(path: Path) -> str:
    """`sha256:` and the hex digest of a file."""
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while chunk := file.read(1 << 20):
            sha.update(chunk)
        return "sha256:" + sha.hexdigest()
