"""Log lines of an engine: for people, or as JSON objects with the same names as the server's."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from functools import partialmethod
from types import TracebackType

from tqdm import tqdm

CONSOLE = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonLines(logging.Formatter):
    """One record is one JSON object on one line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "process": self._process,
            "logger": record.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(process: str, *, as_json: bool) -> None:
    """Set up the root logger, warnings, and exceptions that nobody caught. Lines go to stderr; progress bars, which are no lines,
    are not written."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process) if as_json else logging.Formatter(CONSOLE))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and issubclass(kind, Exception):
        logging.getLogger(__name__).error("uncaught_exception", exc_info=(kind, error, trace))
