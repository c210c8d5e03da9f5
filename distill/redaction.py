"""Keys, tokens and passwords are taken out of what users and logs get to see: by value where this process knows them, by pattern else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

REDACTED = "[redacted]"
_SECRET_NAMES = re.compile(r"(^|_)(KEY|SECRET|TOKEN|PASSWORD)$")
_SHORTEST = 8
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+@")
#: Forms that nothing else has: of our keys and sessions, webhooks', OpenAI's and those who took its form, Hugging Face's, Google's, AWS's,
#: GitHub's.
_TOKEN = re.compile(
    r"\bshs?_[0-9a-z]{1,64}_[A-Za-z0-9_-]{16,}|\bwhsec_[A-Za-z0-9+/=]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bhf_[A-Za-z0-9]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{30,}|\bAKIA[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"
)


def redact_text(text: str) -> str:
    """The text without what is secret in it."""
    for secret in _secrets():
        text = text.replace(secret, REDACTED)
    return _URL_PASSWORD.sub(r"\1:" + REDACTED + "@", _TOKEN.sub(REDACTED, text))


def redacted(value: Any) -> Any:
    """The same of every text in a JSON value; keys stay as they are."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


@cache
def _secrets() -> tuple[str, ...]:
    """Values of this process's secret-looking variables, longest first; short ones would redact ordinary words."""
    found = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))
