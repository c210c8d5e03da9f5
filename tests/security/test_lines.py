"""What is written down: a log line is one line whatever it tells, and a secret is in no line, event or error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from starlette.testclient import TestClient

from distill import logs, redaction
from distill.db import unit_of_work
from distill.errors import JobFault
from distill.jobs import events
from distill.pipeline.package import manifest, readme
from distill.settings import get_settings
from tests.integration.api.conftest import job_body
from tests.unit.pipeline.test_package import FACTS

KNOWN = "canary-of-no-form-5d7f1a"
"""Told apart by its value alone."""
FORMED = "sk-proj-0a9b8c7d6e5f4a3b2c1d"
"""Told apart by its form alone."""
HOSTILE = 'a\r\n{"level": "info", "event": "forged"}\u2028\x1b[2J\x07\x00b'


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.CaptureFixture[str]]:
    """What this process logs, as the server's processes do."""
    monkeypatch.setenv("STILLHOUSE_SERVER__LOG_FORMAT", "json")
    get_settings.cache_clear()
    root = logging.getLogger()
    before, level, configured = root.handlers[:], root.level, structlog.get_config()
    root.handlers.clear()  # pytest's would be closed, and used again
    yield capsys
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**configured)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PROVIDER_API_KEY", KNOWN)
    redaction._secrets.cache_clear()
    yield
    monkeypatch.undo()
    redaction._secrets.cache_clear()


def written(lines: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.readouterr().err.splitlines()]


@pytest.mark.record("rule-log-lines")
def test_whatever_is_logged_stays_one_line(lines: pytest.CaptureFixture[str]) -> None:
    logs.configure("api")
    log = structlog.get_logger("test_lines")
    log.warning(HOSTILE, path=HOSTILE, **{"a\nb": HOSTILE})
    logging.getLogger("of.others").warning("asked: %s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("request_failed")
    told = written(lines)
    assert [(each["level"], each["process"]) for each in told] == [("warning", "api")] * 2 + [("error", "api")]
    assert told[0]["path"] == HOSTILE


def told_everywhere(api: TestClient, lines: pytest.CaptureFixture[str], secret: str) -> dict[str, str]:
    """Where a text is written down, and how it stands there."""
    logs.configure("api")
    log, said = structlog.get_logger("test_lines"), f"refused: {secret}."
    log.warning(said, headers={"authorization": [f"Bearer {secret}"]})
    logging.getLogger("of.others").warning("it said: %s", said)
    try:
        raise ValueError(said)
    except ValueError:
        log.exception("request_failed")
    told = {"log": lines.readouterr().err}
    job = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
    with unit_of_work() as s:
        events.append(s, job, "log", said, {"said": [said]})
    told["event"] = api.get(f"/v1/compile_jobs/{job}/events").text
    return told | {"error": json.dumps(JobFault("lm_refused", said, data={"answer": [said]}).as_json())}


@pytest.mark.record("rule-redaction-by-value")
def test_a_secret_that_is_known_is_told_nowhere(known: None, api: TestClient, lines: pytest.CaptureFixture[str]) -> None:
    told = told_everywhere(api, lines, KNOWN)
    assert all("refused: [redacted]" in text for text in told.values()), told
    assert [where for where, text in told.items() if KNOWN in text] == []


@pytest.mark.record("rule-redaction-by-pattern")
def test_what_looks_like_a_secret_is_told_nowhere(api: TestClient, lines: pytest.CaptureFixture[str]) -> None:
    told = told_everywhere(api, lines, FORMED)
    assert all("refused: [redacted]" in text for text in told.values()), told
    assert [where for where, text in told.items() if FORMED in text] == []


def told_in_an_artifact(secret: str) -> str:
    """What an artifact tells people of a job whose metric was given a secret; its program stays as its models were trained on it."""
    metric = {"type": "reference", "reference": "desk:judged", "kwargs": {"judge": {"key": f"it is {secret}."}}}
    evaluation = {"n": 1, "metric": f"desk:judged {secret}"}
    facts = replace(FACTS, metric=metric, evaluation=evaluation)
    return f"{json.dumps(manifest(facts, {}))} {readme(facts).decode()}"


@pytest.mark.record("rule-redaction-of-artifacts")
@pytest.mark.parametrize("secret", [KNOWN, FORMED])
def test_what_a_metric_was_given_is_in_no_artifact(known: None, secret: str) -> None:
    text = told_in_an_artifact(secret)
    assert "it is [redacted]." in text
    assert secret not in text
