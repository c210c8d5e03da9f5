"""Fetching an artifact: each file with the digest that the server named, none outside its folder, all or nothing at the end."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx

from stillhouse._exceptions import DamagedArtifact
from stillhouse._request import Call
from stillhouse.types import Artifact, ArtifactFile

PATH = "/v1/artifacts"
_MAX_FAILURES = 5


class Download:
    """What has come of an artifact: a folder beside its place, with which the next try goes on, also that of another process.

    Neither client's waiting is in here: both fill the file that `open` gives, as often as `is_here` is false.
    """

    def __init__(self, artifact: Artifact, folder: Path) -> None:
        """Raises FileExistsError when `folder` has something in it, DamagedArtifact for a listed path outside of it."""
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty")
        self.files = artifact.files
        self._artifact = artifact.id
        self._folder = folder
        self._part = folder.parent / f".{folder.name}.{artifact.id}.part"
        self._failures = 0
        for file in self.files:
            if not (self._part / file.path).resolve().is_relative_to(self._part.resolve()):
                raise DamagedArtifact(f"the artifact lists a path outside its folder: {file.path}")
        self._part.mkdir(parents=True, exist_ok=True)

    def is_here(self, file: ArtifactFile) -> bool:
        return self.size(file) >= file.size_bytes and (self._part / file.path).is_file()

    def call(self, file: ArtifactFile) -> Call[None]:
        """For what is missing of a file."""
        headers = {"Accept-Encoding": "identity"}
        if size := self.size(file):
            headers["Range"] = f"bytes={size}-"
        return Call("GET", f"{PATH}/{self._artifact}/files/{quote(file.path)}", lambda _: None, headers=headers)

    def open(self, file: ArtifactFile, response: httpx.Response) -> IO[bytes]:
        """Where the body belongs: behind what is there, unless the server sends the file from its start."""
        path = self._part / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb")

    def tried(self, file: ArtifactFile, before: int, error: Exception | None) -> None:
        """After each try: raise its error when one after the other brings nothing. What has come stays for the next time."""
        self._failures = 0 if self.size(file) > before or self.is_here(file) else self._failures + 1
        if self._failures > _MAX_FAILURES:
            raise error or DamagedArtifact(f"the server sends less of {file.path} than it lists")

    def finish(self) -> Path:
        """Put the folder in its place. Raises DamagedArtifact with the first file that differs; nothing is left behind then."""
        try:
            check(self._part, self.files)
        except DamagedArtifact:
            shutil.rmtree(self._part, ignore_errors=True)
            raise
        if self._folder.exists():
            self._folder.rmdir()
        os.replace(self._part, self._folder)
        return self._folder

    def size(self, file: ArtifactFile) -> int:
        """Bytes that have come of a file."""
        path = self._part / file.path
        return path.stat().st_size if path.is_file() else 0


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
