"""The downloadable file of an artifact. The same files give the same bytes, so a step that runs twice names the same blob."""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO


def write_archive(files: Mapping[str, Path], out: IO[bytes]) -> None:
    """Write a tar.gz of `{path in the archive: file on disk}`: sorted, without times, owners or modes of this machine."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            _add(tar, name, files[name])


def _add(tar: tarfile.TarFile, name: str, source: Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = source.stat().st_size, 0o644, 0
    with source.open("rb") as stream:
        tar.addfile(entry, stream)
