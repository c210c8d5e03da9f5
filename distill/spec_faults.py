"""What is wrong with a compile spec: the first fault that pydantic found, with its place as a JSON path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from distill.errors import Invalid
from stillhouse_programs.spec import SpecError
from stillhouse_programs.spec_models import PREDICTOR_PATTERN, TARGET_PATTERN

WEB_ADDRESS = r'^https?://([A-Za-z0-9]+(-+[A-Za-z0-9]+|\.[A-Za-z0-9]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,4})?(/[!"$-\[\]-~]*)?$'
"""Whether its host is public, or one that the operator allows, is not said by it."""
FORMS = {
    r"^[!-~]+$": "an id or a name: no spaces, and no characters beyond ASCII",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, `.`, `_` and `-`, and begins with a letter or a digit",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$": "at most 128 letters, digits, `.`, `_` and `-`, and begins with a letter or a digit",
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "at most 64 letters, digits, `_` and `-`, and begins with a letter or a digit",
    r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$": "at most 100 letters, digits, `_`, `.` and `-`, and begins with a letter",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[a-z0-9][a-z0-9._-]{0,62}$": "an alias, as support-router@prod",
    r"^[!-?A-~]+$|^[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[a-z0-9][a-z0-9._-]{0,62}$": "an id, or an alias, as support-router@prod",
    r"^3\.([0-9]|[1-9][0-9])$": "a minor version of Python, as 3.11",
    r"^[^\x00]*$": "text without the character NUL",
    r"^[!->@-Z\\^-~]+$": "the name of an LM without spaces, `?` and brackets; `*` is anything",
    r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$": "the name of a package",
    r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}$": "the version of a package",
    r"^[A-Za-z][A-Za-z0-9_]{0,63}$": "at most 64 letters, digits and `_`, and begins with a letter",
    r"^[A-Za-z][A-Za-z0-9_]*$": "letters, digits and `_`, and begins with a letter",
    r"^[A-Za-z][A-Za-z0-9_.-]*$": "letters, digits, `_`, `.` and `-`, and begins with a letter",
    r"^[A-Za-z][A-Za-z0-9_]{0,99}(\.[A-Za-z][A-Za-z0-9_]{0,399}){1,20}$": "a reference, as input.message or step.field",
    r"^[^\x00-\x1f]+$": "text without control characters",
    r"^(v1:[0-9a-f]{64})?$": "a digest, v1: and 64 hexadecimal digits",
    PREDICTOR_PATTERN: "the name of a predictor, as `first`, `steps[0]` or `by['x']`",
    TARGET_PATTERN: "a class or function, as `package.module:name`",
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){0,7}$": "a relative path, as support/steps.py",
    r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)$": "base64",
    r"^prog-[!-~]+$": "the id of a program, prog-…",
    r"^(exact_match|metric-[!-~]+)$": "exact_match, or the id of a metric, metric-…",
    r"^[A-Za-z0-9._~+/=:-]{1,4096}$": "1 to 4096 letters, digits and characters of ._~+/=:-",
    WEB_ADDRESS: "a web address, as https://api.example.com/v1",
    r"^[a-z0-9-]{1,18}$": "at most 18 small letters, digits and `-`",
    r"^[A-Za-z0-9_]{1,100}$": "at most 100 letters, digits and `_`",
    r"^[a-z0-9_]+$": "small letters, digits and `_`",
    r"^[^\x00-\x1f\x7f]+$": "text in one line, without control characters",
    r"^[^\s?\[\]]+$": "the name of an LM without spaces, `?` and brackets; `*` is anything",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^\d{1,18}$": "the number of an event",
    r"^20\d\d-(0[1-9]|1[0-2])$": "a month, as 2026-11",
    r"^work-[0-9]{1,18}$": "the id of a work item, as a claim gives it",
    r"^ftevent-[a-z0-9]+-\d{1,18}$": "the id of an event, ftevent-…",
}
"""What a pattern asks for, in words: a user is shown no regular expression."""


def in_words(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """pydantic's sentence, or our own where it would show a pattern."""
    form = FORMS.get(context.get("pattern", "")) if kind == "string_pattern_mismatch" else None
    return f"takes {form}" if form else message


_CODES = {"unknown_key": "unknown_option", "missing": "missing_field"}


def first_fault(fault: ErrorDetails) -> Invalid:
    """What a reader is told of it, in our own words where the fault is of a program, a metric or a prompt adapter."""
    context = fault.get("ctx", {})
    param, message = json_path(fault["loc"]), in_words(fault["type"], fault["msg"], context)
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
