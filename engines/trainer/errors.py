"""Why a training cannot start."""

from __future__ import annotations


class BadInput(Exception):
    """The job or its rows cannot be trained on; trying again changes nothing. ``param`` names what is at fault."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
