"""Log lines of an engine: for people, or as JSON objects with the same names as the server's."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from functools import partialmethod

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
    """Set up the root logger and warnings. Lines go to stderr; progress bars, which are no lines, are not written."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process) if as_json else logging.Formatter(CONSOLE))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
