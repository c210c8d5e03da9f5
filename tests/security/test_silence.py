"""What a reply tells: never a path, a host, a statement, a traceback or a key of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.jobs import events
from tests.integration.api.conftest import job_body
from tests.integration.api.every_route import NOBODYS, filled, operations

KEY = "sk-canary-3fa8c1d2e4b5"
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|psycopg|sqlalchemy|postgresql:|redis:|SELECT |INSERT |UPDATE |/tmp/|/home/|/root/|/usr/|"
    r"127\.0\.0\.1|localhost:\d|\bpid\b|0x[0-9a-f]{8}"
)


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key where keys are: in the environment that the server reads."""
    for name in ("OPENAI_API_KEY", "STILLHOUSE_LMHOST_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY)


def errors_of(api: TestClient) -> Iterator[tuple[str, str]]:
    """Every operation, asked wrongly in four ways."""
    for verb, path, _ in operations():
        address = filled(path, NOBODYS)
        kinds: list[dict[str, Any]] = [
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            {"json": {"a\u2028b": KEY}},
            {"content": b"\xff" * 10, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            {"params": {"limit": "x", "after": "' OR 1", "order": "\u0000"}},
        ]
        for kind in kinds:
            reply = api.request(verb, address, **kind)
            yield f"{verb} {path} {json.dumps(list(kind))}", reply.text if reply.status_code >= 400 else ""


@pytest.mark.record("CVE-2025-23319")
def test_no_error_tells_what_is_inside(canaries: None, api: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = dict(errors_of(api))
    assert len([text for text in told.values() if text]) > 150
    assert {asked: text for asked, text in told.items() if INSIDE.search(text) or KEY in text} == {}
    monkeypatch.setenv("DATABASE_URL", "postgresql://stillhouse:hidden@127.0.0.1:9/none")
    reply = api.post("/v1/compile_jobs", json=job_body(metric={"type": "exact_match", "fields": ["nothing"]}))
    assert not INSIDE.search(reply.text)
    for blob in (tmp_path / "stillhouse-home" / "blobs").rglob("*"):
        if blob.is_file():
            blob.write_bytes(b"damaged")
    for dataset in api.get("/v1/datasets").json()["data"]:
        reply = api.get(f"/v1/datasets/{dataset['id']}/rows")
        assert reply.status_code >= 400
        assert not INSIDE.search(reply.text), reply.text


def test_no_event_repeats_a_key_that_an_lm_host_or_a_program_said(api: TestClient) -> None:
    job = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
    with unit_of_work() as s:
        events.append(s, job, "log", f"401 from the LM host: Incorrect API key provided: {KEY}", {"said": {"headers": [f"Bearer {KEY}"]}})
    told = api.get(f"/v1/compile_jobs/{job}/events").text
    assert "Incorrect API key provided: [redacted]" in told
    assert KEY not in told
