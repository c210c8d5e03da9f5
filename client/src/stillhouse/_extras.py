"""What the bare package goes without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of an extra's packages: an ImportError says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: {_how_to_install(name)}", name=error.name) from None


def _how_to_install(name: str) -> str:
    """From the clone that this package was installed from: no registry has it."""
    clone = _clone()
    folders = ("client", "programs") if name == "dspy" else ("client",)
    command = " ".join(["pip install", *(f"'{clone or '.'}/{folder}[{name}]'" for folder in folders)])
    return command if clone else f"in a clone of Stillhouse, {command}"


def _clone() -> Path | None:
    """The folder that has `client` and `programs`, where the installer noted it and it is still there."""
    noted = metadata.distribution("stillhouse").read_text("direct_url.json")
    url = urlsplit(json.loads(noted)["url"]) if noted else None
    if url is None or url.scheme != "file":
        return None
    clone = Path(url2pathname(url.path)).parent
    return clone if all((clone / folder / "pyproject.toml").is_file() for folder in ("client", "programs")) else None
