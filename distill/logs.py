"""Structured logs: JSON or console lines with the bound job, step and fence, and no secret in them."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any

import structlog

from distill.settings import get_settings

_SECRET_NAMES = re.compile(r"(^|_)(KEY|SECRET|TOKEN|PASSWORD)$")
_TOKEN = re.compile(r"\bsh_[0-9a-z]{1,64}_[A-Za-z0-9_-]{16,}")
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+@")
_SHORTEST = 8
REDACTED = "[redacted]"


def configure(process: str) -> None:
    """Set up logging for this process, the standard library's loggers too. Lines go to stderr."""
    server = get_settings().server
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(server.log_level.upper())),
        cache_logger_on_first_use=True,
    )
    last = structlog.processors.JSONRenderer() if server.log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    logging.basicConfig(handlers=[handler], level=server.log_level.upper(), force=True)
    structlog.contextvars.bind_contextvars(process=process)


def redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of every value of a log line: by value where this process knows them, by pattern else."""
    return {key: _clean(value) for key, value in event.items()}


def redact_text(text: str) -> str:
    """The text without keys, tokens and passwords; for errors and events that users see."""
    for secret in _secrets():
        text = text.replace(secret, REDACTED)
    return _URL_PASSWORD.sub(r"\1:" + REDACTED + "@", _TOKEN.sub(REDACTED, text))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


@cache
def _secrets() -> tuple[str, ...]:
    """Values of this process's secret-looking variables, longest first; short ones would redact ordinary words."""
    found = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))
