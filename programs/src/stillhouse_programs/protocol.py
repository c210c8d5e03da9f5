"""Protocol v1 between a server and a runner: JSON lines on stdin and stdout, one object a line, at most `MAX_LINE_BYTES` long.

A request is `{"v": 1, "id": n, "op": "…", …}`; its replies are `{"v": 1, "id": n, "event": "…", …}` and end with `done` or `error`.
`cancel` ends the request `target` at once; `finish` lets the rollouts of `target` that have begun end, and begins no other.
Importable without dspy.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import orjson

VERSION = 1
MAX_LINE_BYTES = 8 * 1024 * 1024
OPS = (
    "hello",
    "unpack",
    "validate",
    "open",
    "rollouts",
    "label_traces",
    "render_rows",
    "render",
    "call",
    "describe",
    "try_metric",
    "close",
    "cancel",
    "finish",
)

Json: TypeAlias = dict[str, Any]


class RequestError(Exception):
    """A request that cannot be served. It is answered with an `error` event; the runner goes on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def event(self) -> Json:
        return {"event": "error", "code": self.code, "message": self.message, "param": self.param}


class InfrastructureError(BaseException):
    """Something that says nothing about the program: rate limit, time, budget, a lost relay. Never stored as a fact.

    Not an `Exception`, so that a program's own `except Exception` cannot turn it into an answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


MAX_MESSAGE_CHARS = 2000


def message_of(fault: BaseException) -> str:
    """What an exception of a program says, as text that JSON can hold: it may be of any size, and may itself refuse to be printed."""
    try:
        text = str(fault)[:MAX_MESSAGE_CHARS]
    except BaseException as second:
        text = f"(its message cannot be read: {type(second).__name__})"
    return text.encode("utf-8", "replace").decode("utf-8")


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8. Keys stay in their order, which is part of a prompt. Raises ValueError for what JSON cannot hold."""
    try:
        return orjson.dumps(value)
    except TypeError as fault:
        raise ValueError(str(fault)) from fault


def decode(line: bytes) -> Any:
    """The JSON value of one line. Raises ValueError."""
    return orjson.loads(line)


def read_request(line: bytes) -> Json:
    """One request, with its envelope checked. Raises RequestError."""
    try:
        request = decode(line)
    except ValueError as fault:
        raise RequestError("bad_json", f"not a line of JSON: {fault}") from fault
    if not isinstance(request, dict):
        raise RequestError("bad_request", "a request is a JSON object")
    if request.get("v") != VERSION:
        raise RequestError("bad_version", f"this runner speaks version {VERSION}", "v")
    if not isinstance(request.get("id"), int):
        raise RequestError("bad_request", "id must be an integer", "id")
    if request.get("op") not in OPS:
        raise RequestError("unknown_op", f"op must be one of {', '.join(OPS)}", "op")
    return request


def request_id(line: bytes) -> int | None:
    """The id of a request that cannot be served, if it has one: then whoever waits for the answer gets it."""
    try:
        request = decode(line)
    except ValueError:
        return None
    found = request.get("id") if isinstance(request, dict) else None
    return found if isinstance(found, int) else None


def field(request: Json, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """A field of a request, checked for its JSON type. Raises RequestError when it is missing (without a default) or of another type."""
    value = request.get(name, default)
    if value is ...:
        raise RequestError("bad_request", f"{name} is required", name)
    if value is default or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
        return value
    raise RequestError("bad_request", f"{name} has the wrong type ({type(value).__name__})", name)
