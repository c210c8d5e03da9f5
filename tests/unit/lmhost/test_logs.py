"""The log lines of an engine."""

from __future__ import annotations

import json
import subprocess
import sys

_PROCESS = """
import logging, warnings
from tqdm import tqdm
from engines import logs

logs.configure("lm-host", as_json=True)
logging.getLogger("uvicorn.error").warning("two\\nlines of %s", "a client")
warnings.warn("old", UserWarning)
try:
    raise ValueError("wrong")
except ValueError:
    logging.getLogger("engine").exception("failed")
list(tqdm(range(3)))
"""


def test_everything_is_json_when_that_is_asked_for() -> None:
    # A process of its own, as an LM host has: pytest and libraries change logging and warnings of this one.
    done = subprocess.run([sys.executable, "-c", _PROCESS], capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["process"]) for line in said] == [("warning", "lm-host")] * 2 + [("error", "lm-host")]
    assert said[0]["event"] == "two\nlines of a client"
    assert "UserWarning: old" in said[1]["event"]
    assert "ValueError: wrong" in said[2]["exception"]


_ENDS = """
import threading
from engines import logs

logs.configure("lm-host", as_json=True)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("wrong")
"""


def test_exceptions_that_nobody_caught_are_logged() -> None:
    done = subprocess.run([sys.executable, "-c", _ENDS], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["event"], line["exception"].splitlines()[-1]) for line in lines] == [
        ("error", "uncaught_exception", "ZeroDivisionError: division by zero"),
        ("error", "uncaught_exception", "ValueError: wrong"),
    ]
    assert done.returncode == 1
