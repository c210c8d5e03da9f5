"""One request as a value: what both clients send, built once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from stillhouse._exceptions import InvalidName
from stillhouse._plain import plain_json
from stillhouse.types.base import Deletion

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Cascade = Literal["artifacts"]
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Upload:
    """A file as a body: read while it is sent, anew at each try. `on_sent` is told how many bytes have gone out."""

    path: Path
    on_sent: Callable[[int], None] | None = None

    def chunks(self) -> Iterator[bytes]:
        sent = 0
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                sent += len(chunk)
                if self.on_sent:
                    self.on_sent(sent)

    async def achunks(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks():
            yield chunk


@dataclass(frozen=True)
class FormUpload(Upload):
    """The same file in a multipart form, with what stands before and after it."""

    head: bytes = b""
    tail: bytes = b""

    def chunks(self) -> Iterator[bytes]:
        yield self.head
        yield from super().chunks()
        yield self.tail


@dataclass(frozen=True)
class Call(Generic[T]):
    """`parse` turns the decoded JSON body into the result. `timeout` in seconds, None for the client's own."""

    method: str
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None


def at(noun: str, *parts: str) -> str:
    """The path of something below a noun. A name may hold any character: a bare `#` or `?` would make it the address of something else.

    Raises:
        InvalidName: one is empty, or goes up a folder.
    """
    for part in parts:
        if not part or {".", ".."} & set(part.split("/")):
            raise InvalidName(f"{part!r} is no id or name")
    return "/".join((noun, *(quote(part, safe="/:@") for part in parts)))


def get(path: str, model: type[M], *, timeout: float | None = None, **params: Any) -> Call[M]:
    """A GET whose absent (None) parameters are left out."""
    return Call("GET", path, model.model_validate, params=_given(params), timeout=timeout)


def post(path: str, model: type[M], body: Any = None, *, timeout: float | None = None) -> Call[M]:
    """A POST that may be repeated safely: a verb on an object."""
    return Call("POST", path, model.model_validate, json=body if body is not None else {}, timeout=timeout)


def create(path: str, model: type[M], body: Any, idempotency_key: str | None, *, timeout: float | None = None) -> Call[M]:
    """A POST that makes or spends something: always with an Idempotency-Key, so that a retry cannot make two."""
    return Call("POST", path, model.model_validate, json=plain_json(body), headers=idempotency(idempotency_key), timeout=timeout)


def delete(path: str) -> Call[None]:
    return Call("DELETE", path, lambda _: None)


def erase(path: str, *, dry_run: bool, cascade: Cascade | None = None) -> Call[Deletion]:
    """A DELETE of an object and of what came from it."""
    return Call("DELETE", path, Deletion.model_validate, params=_given({"dry_run": dry_run or None, "cascade": cascade}))


def idempotency(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def metadata_filters(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """`{"git_sha": "9f1"}` → `{"metadata[git_sha]": "9f1"}`."""
    return {f"metadata[{key}]": value for key, value in (metadata or {}).items()}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def given(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the fields that were left out (None)."""
    return _given(body)
