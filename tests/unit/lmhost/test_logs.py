"""The log lines of an engine."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from engines import logs


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's would be closed, and used again
    # What earlier tests of this process left: an LM host has a process of its own.
    logging.captureWarnings(False)
    for name in ("uvicorn", "uvicorn.error", "py.warnings"):
        for attribute, value in {"propagate": True, "disabled": False, "handlers": []}.items():
            monkeypatch.setattr(logging.getLogger(name), attribute, value)
    monkeypatch.setattr(tqdm, "__init__", tqdm.__init__)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_everything_is_json_when_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("lm-host", as_json=True)
    logging.getLogger("uvicorn.error").warning("two\nlines of %s", "a client")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("engine").exception("failed")
    list(tqdm(range(3)))
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["process"]) for line in said] == [("warning", "lm-host")] * 2 + [("error", "lm-host")]
    assert said[0]["event"] == "two\nlines of a client"
    assert "ValueError: wrong" in said[2]["exception"]
