"""Where the server is and who asks: arguments, else environment, else a stored file of `stillhouse-server up` or `stillhouse login`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse._exceptions import ConfigError

DEFAULT_BASE_URL = "http://127.0.0.1:8400"
_NAME = "credentials.json"


@dataclass(frozen=True)
class Credentials:
    base_url: str
    api_key: str


def login_file() -> Path:
    """What `stillhouse login` writes; servers write into their own homes, so neither takes the other's key away."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "stillhouse" / _NAME


def _files() -> Iterator[Path]:
    """The nearest first: a server that runs in this folder is meant before one that somebody logged in to."""
    if home := os.environ.get("STILLHOUSE_HOME"):
        yield Path(home) / _NAME
    yield Path(".stillhouse") / _NAME
    yield login_file()
    yield Path.home() / ".stillhouse" / _NAME


def _stored() -> Iterator[tuple[str, str | None]]:
    """Address and key of each file that is there."""
    for path in _files():
        if path.is_file():
            stored = _read(path)
            yield str(stored.get("base_url") or DEFAULT_BASE_URL).rstrip("/"), stored.get("api_key") or None


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        loaded = None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} cannot be read as credentials: remove it, then run `stillhouse login`")
    return loaded


def look_up(base_url: str | None = None, api_key: str | None = None) -> tuple[str, str | None]:
    """Address and key: arguments first, then STILLHOUSE_BASE_URL and STILLHOUSE_API_KEY, then the stored ones.

    A stored key is used only for the address that it was stored with: a key never travels to another server.
    """
    url = base_url or os.environ.get("STILLHOUSE_BASE_URL")
    key = api_key or os.environ.get("STILLHOUSE_API_KEY")
    if url and key:
        return url.rstrip("/"), key
    stored = list(_stored())
    url = (url or (stored[0][0] if stored else DEFAULT_BASE_URL)).rstrip("/")
    return url, key or next((known for address, known in stored if address == url and known), None)


def find_credentials(base_url: str | None = None, api_key: str | None = None) -> Credentials:
    """As `look_up`. Raises ConfigError when there is no key for the address, or it is none."""
    url, key = look_up(base_url, api_key)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is no address: it begins with http:// or https://")
    if key is None:
        raise ConfigError(f"no API key for {url}: run `stillhouse login`, set STILLHOUSE_API_KEY, or run `stillhouse-server up`")
    return Credentials(url, key)


def store(credentials: Credentials) -> Path:
    """Write them where `look_up` finds them, for this user alone; the file."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # made with mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(credentials), file, indent=1)
    os.replace(part, path)
    return path


def forget() -> bool:
    """Remove what `store` wrote; False when there was nothing."""
    try:
        login_file().unlink()
    except FileNotFoundError:
        return False
    return True
