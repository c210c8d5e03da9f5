"""What the LM host refuses, and how a refusal looks on the wire."""

from __future__ import annotations

from typing import Any


class HostError(Exception):
    """A refusal that the caller can act on: an HTTP ``status``, a stable ``code``, a message and the field it is about."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The OpenAI-shaped error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> HostError:
    """A 400 about one field."""
    return HostError(400, code, message, param)


def unknown_model(name: str) -> HostError:
    """A 404: never fall back to the base model for a name that is not loaded."""
    return HostError(404, "model_not_found", f"The model {name!r} is not loaded here.", "model")


def asleep() -> HostError:
    """A 503 while the device is handed over."""
    return HostError(503, "sleeping", "The LM host has handed its device over; try again later.", retry_after=5)
