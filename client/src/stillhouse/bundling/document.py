"""The document of a bundle: files, what they need, and what is sent by value."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillhouse.bundling.errors import NotSendable

MAX_BYTES = 4 << 20
MAX_FILES = 500
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def document(
    files: Mapping[str, str], packages: Mapping[str, str], pickles: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """What `client.bundles.create` takes. `pickles` are `{"program": {"makes": "program", "data": base64}}`. Raises NotSendable."""
    if not files and not pickles:
        raise NotSendable("there is no code to send")
    if len(files) > MAX_FILES:
        raise NotSendable(f"{len(files)} files are to be sent, and a bundle holds {MAX_FILES}")
    parts = {"files": dict(sorted(files.items())), "packages": dict(sorted(packages.items())), "pickles": dict(pickles or {})}
    made = {"bundle_version": 1, "python": PYTHON, **{name: part for name, part in parts.items() if part}}
    if (size := size_of(made)) > MAX_BYTES:
        raise NotSendable(f"the code is {size / 1e6:.1f} MB, and a bundle holds {MAX_BYTES / 1e6:.1f} MB. {_largest(made)}")
    return made


def size_of(made: Mapping[str, Any]) -> int:
    """Bytes of a document as it is sent."""
    return len(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def read_text(path: Path) -> str:
    """Raises NotSendable for a file that is not there or no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise NotSendable(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NotSendable(f"{path}: it is no UTF-8 text (byte {error.start}); a bundle holds text alone") from None


def below(folder: Path) -> Iterable[Path]:
    """The files of a folder that may be sent: hidden ones and what Python has compiled are left out."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inside):
            yield path


def _largest(made: Mapping[str, Any]) -> str:
    sizes = {path: len(text) for path, text in made.get("files", {}).items()}
    sizes.update({f"what is sent by value of the {name}": len(each["data"]) for name, each in made.get("pickles", {}).items()})
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return "The largest parts: " + ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
