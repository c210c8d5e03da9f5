"""Structured logs: JSON or console lines with the bound job, step and fence, and no secret in them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from distill.redaction import redacted
from distill.settings import get_settings


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
    """Take secrets out of every value of a log line."""
    return {key: redacted(value) for key, value in event.items()}
