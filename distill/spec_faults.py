"""What is wrong with a compile spec: the first fault that pydantic found, with its place as a JSON path."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from distill.errors import Invalid
from stillhouse_programs.spec import SpecError

_CODES = {"unknown_key": "unknown_option", "missing": "missing_field"}


def first_fault(fault: ErrorDetails) -> Invalid:
    """What a reader is told of it, in our own words where the fault is of a program, a metric or a prompt adapter."""
    context = fault.get("ctx", {})
    param, message = json_path(fault["loc"]), fault["msg"]
    if isinstance(inner := context.get("error"), SpecError):
        # Its own path starts at the field that pydantic's path ends with.
        param, message = param + inner.param[len(str(fault["loc"][-1])) :], inner.message.split(": ", 1)[-1]
    elif fault["type"] == "unknown_key":
        param = json_path((*fault["loc"], context["key"]))
    return Invalid(f"{param}: {message}" if param else message, code=_CODES.get(fault["type"], "invalid_value"), param=param or None)


def json_path(location: Sequence[str | int]) -> str:
    """`("teacher", 0, "lms")` → `teacher[0].lms`; pydantic's names of union branches are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("constrained-") and not any(sign in part for sign in "[](){}"):
            path += f".{part}" if path else part
    return path
