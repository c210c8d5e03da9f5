"""The document of a bundle: files, what they need, and what is sent by value."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillhouse.bundling.errors import NotSendable

MAX_BYTES = 4 << 20
MAX_FILES = 500
_SECRET = re.compile(r"(API_?KEY|ACCESS_KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_SHORTEST_SECRET = 12
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def document(
    files: Mapping[str, str], packages: Mapping[str, str], pickles: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """What `client.bundles.create` takes. `pickles` are `{"program": {"makes": "program", "data": base64}}`. Raises NotSendable."""
    if not files and not pickles:
        raise NotSendable("there is no code to send")
    if len(files) > MAX_FILES:
        raise NotSendable(f"{len(files)} files are to be sent, and a bundle holds {MAX_FILES}")
    _check_secrets(files, pickles or {})
    parts = {"files": dict(sorted(files.items())), "packages": dict(sorted(packages.items())), "pickles": dict(pickles or {})}
    made = {"bundle_version": 1, "python": PYTHON, **{name: part for name, part in parts.items() if part}}
    if (size := size_of(made)) > MAX_BYTES:
        raise NotSendable(f"the code is {size / 1e6:.1f} MB, and a bundle holds {MAX_BYTES / 1e6:.1f} MB. {_largest(made)}")
    return made


def size_of(made: Mapping[str, Any]) -> int:
    """Bytes of a document as it is sent."""
    return len(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def read_text(path: Path) -> str:
    """Raises NotSendable for a file that is not there, too large or no UTF-8."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise NotSendable(f"{path}: it has {size / 1e6:.1f} MB, and a bundle holds {MAX_BYTES / 1e6:.1f} MB; data goes into a dataset")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise NotSendable(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NotSendable(f"{path}: it is no UTF-8 text (byte {error.start}); a bundle holds text alone") from None


def below(folder: Path) -> Iterable[Path]:
    """The files of a folder that may be sent: hidden ones and what Python has compiled are left out.

    Raises NotSendable for more than a bundle holds, and for a link to what lies outside of the folder.
    """
    found: list[Path] = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [path for path in (Path(at, name) for name in names if not name.startswith(".")) if path.is_file()]
        if len(found) > MAX_FILES:
            raise NotSendable(f"{folder} has more than the {MAX_FILES} files that a bundle holds: name what the code needs of it")
    home = folder.resolve()
    for path in sorted(found):
        if path.is_symlink() and home not in path.resolve().parents:
            raise NotSendable(f"{path} is a link to what lies outside of {folder}: name that file itself, or leave the link out")
        yield path


def _check_secrets(files: Mapping[str, str], pickles: Mapping[str, Mapping[str, str]]) -> None:
    """That no key of the caller's environment goes along in a text, or in what a program or metric holds."""
    held = {path: text.encode("utf-8", "surrogatepass") for path, text in files.items()}
    held.update({f"what is sent by value of the {name}": base64.b64decode(each["data"]) for name, each in pickles.items()})
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            for where, content in held.items():
                if os.fsencode(value) in content:
                    raise NotSendable(f"{where} holds the value of {name}. Keys are not sent: code on the server reaches nothing with them")


def _largest(made: Mapping[str, Any]) -> str:
    sizes = {path: len(text) for path, text in made.get("files", {}).items()}
    sizes.update({f"what is sent by value of the {name}": len(each["data"]) for name, each in made.get("pickles", {}).items()})
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return "The largest parts: " + ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
