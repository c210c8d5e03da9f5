"""The routes of an LM host that its agent uses: vLLM's, plus sleep and wake."""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DRAIN_SECONDS = 600.0
WAKE_SECONDS = 300.0
LOAD_SECONDS = 120.0
ANSWER_SECONDS = 120.0
QUICK_SECONDS = 10.0
_NO_SUCH_ROUTE = (404, 405)


class HostUnreachable(Exception):
    """The LM host does not answer; try again later."""


class HostRefused(Exception):
    """The LM host answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CannotSleep(Exception):
    """The LM host has no way to free its device: vLLM has one only with its sleep mode."""


class LmHostClient:
    """One host by its OpenAI base address (with or without /v1). Blocking; each call is one connection."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        parts = urlsplit(base_url)
        self._secure = parts.scheme == "https"
        self._place = parts.netloc
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", **({"authorization": f"Bearer {api_key}"} if api_key else {})}

    def models(self) -> frozenset[str]:
        """The ids it serves now."""
        return frozenset(entry["id"] for entry in self._call("GET", "/v1/models", None, QUICK_SECONDS)["data"])

    def load(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter from a folder that the host can read. Loading one that is loaded already is no error."""
        try:
            self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, LOAD_SECONDS)
        except HostRefused as refused:
            if refused.status != 400 or name not in self.models():
                raise

    def unload(self, name: str) -> None:
        """Unload a LoRA adapter; one that is not loaded is no error."""
        try:
            self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOAD_SECONDS)
        except HostRefused as refused:
            if refused.status not in (400, 404):
                raise

    def answer(self, model: str, messages: list[dict[str, Any]], max_tokens: int) -> str:
        """A greedy answer."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        reply = self._call("POST", "/v1/chat/completions", body, ANSWER_SECONDS)
        return str(reply["choices"][0]["message"]["content"])

    def sleep(self) -> None:
        """Returns when running requests are over and the memory is free. Raises CannotSleep."""
        try:
            self._call("POST", "/sleep", {}, DRAIN_SECONDS)
        except HostRefused as refused:
            if refused.status in _NO_SUCH_ROUTE:
                raise CannotSleep(str(refused)) from refused
            raise

    def wake_up(self) -> None:
        """Returns when the base model is loaded."""
        self._call("POST", "/wake_up", {}, WAKE_SECONDS)

    def is_sleeping(self) -> bool:
        """A host without the route never sleeps."""
        try:
            return bool(self._call("GET", "/is_sleeping", None, QUICK_SECONDS)["is_sleeping"])
        except HostRefused as refused:
            if refused.status in _NO_SUCH_ROUTE:
                return False
            raise

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._place, timeout=seconds)
        try:
            connection.request(method, self._root + path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise HostUnreachable(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise HostRefused(response.status, _message(content) or f"{method} {path}: {response.status}")
        return json.loads(content) if content else {}


def _message(content: bytes) -> str:
    """vLLM answers with OpenAI's error object or with plain text."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:300]
