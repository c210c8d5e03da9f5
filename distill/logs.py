"""Structured logs: JSON or console lines with the bound job, step and fence, and no secret in them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any

import structlog

from distill.redaction import redacted
from distill.settings import get_settings

log = structlog.get_logger(__name__)
Processor = Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]


def configure(process: str) -> None:
    """Set up logging for this process: ours, the standard library's, warnings, and exceptions that nobody caught. Lines go to stderr."""
    server = get_settings().server
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _named(process),
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
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)


def _named(process: str) -> Processor:
    """Not a context variable: those of the main thread are unknown to the other threads."""

    def name(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return name


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and issubclass(kind, Exception):
        log.error("uncaught_exception", exc_info=(kind, error, trace))


def redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of every value of a log line."""
    return {key: redacted(value) for key, value in event.items()}
