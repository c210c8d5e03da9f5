"""Where the server is and who asks: arguments, else environment, else the file that `stillhouse-server up` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse._exceptions import ConfigError

DEFAULT_BASE_URL = "http://127.0.0.1:8400"


@dataclass(frozen=True)
class Credentials:
    base_url: str
    api_key: str


def _homes() -> Iterator[Path]:
    if home := os.environ.get("STILLHOUSE_HOME"):
        yield Path(home)
    yield Path(".stillhouse")
    yield Path.home() / ".stillhouse"


def _from_file() -> dict[str, Any]:
    """The first credentials.json among the homes; empty when there is none."""
    for home in _homes():
        path = home / "credentials.json"
        if path.is_file():
            loaded = json.loads(path.read_text(encoding="utf-8"))
            return loaded if isinstance(loaded, dict) else {}
    return {}


def look_up(base_url: str | None = None, api_key: str | None = None) -> tuple[str, str | None]:
    """Address and key: arguments first, then STILLHOUSE_BASE_URL and STILLHOUSE_API_KEY, then credentials.json.

    The file's key is used only for the file's own address: a key never travels to another server.
    """
    url = base_url or os.environ.get("STILLHOUSE_BASE_URL")
    key = api_key or os.environ.get("STILLHOUSE_API_KEY")
    stored = {} if url and key else _from_file()
    stored_url = str(stored.get("base_url") or DEFAULT_BASE_URL).rstrip("/")
    url = (url or stored_url).rstrip("/")
    if not key and url == stored_url:
        key = stored.get("api_key")
    return url, key or None


def find_credentials(base_url: str | None = None, api_key: str | None = None) -> Credentials:
    """As `look_up`. Raises ConfigError when there is no key for the address."""
    url, key = look_up(base_url, api_key)
    if key is None:
        raise ConfigError(f"no API key for {url}: set STILLHOUSE_API_KEY, or start a server with `stillhouse-server up`")
    return Credentials(url, key)
