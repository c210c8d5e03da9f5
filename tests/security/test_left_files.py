"""Files that somebody has swapped, left behind or named: none is read for what it is not."""

from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from distill.errors import StorageError
from distill.execute import checkpoints
from distill.relay import Relay
from distill.rollouts.runner import Runner
from distill.sandbox import Choice
from distill.storage import FolderStore, put_folder
from stillhouse_programs.spec import check_row, parse_spec
from tests.integration.api.bundled import BUNDLE
from tests.integration.api.conftest import Tokens
from tests.security.test_bodies import Touch

CANARY = "canary-0d9e8f7a6b5c"


@pytest.mark.record("CVE-2026-1839")
def test_a_checkpoint_with_a_swapped_file_is_not_gone_on_from(tmp_path: Path) -> None:
    store, place, again = FolderStore(tmp_path / "blobs"), tmp_path / "step-10", tmp_path / "again"
    place.mkdir()
    (place / "rng_state.pth").write_bytes(b"as it was written")
    files = put_folder(store, place)
    blob = store.path(files["rng_state.pth"]["digest"])
    blob.chmod(0o600)
    blob.write_bytes(pickle.dumps(Touch(tmp_path / "pwned")))
    with pytest.raises(StorageError):
        checkpoints.restore(store, files, again)
    assert list(again.iterdir()) == []
    assert not (tmp_path / "pwned").exists()


def _cache_of(runner: Runner) -> Path:
    """Where DSPy would keep answers, and unpickle them."""
    told = Path(f"/proc/{runner.pid}/environ").read_bytes().split(b"\0")
    return Path(os.fsdecode(next(each for each in told if each.startswith(b"DSPY_CACHEDIR=")).partition(b"=")[2]))


@pytest.mark.record("CVE-2025-69872")
def test_no_program_is_given_the_cache_of_another() -> None:
    relay = Relay()
    first = Runner(sys.executable, relay.start(), sandbox=Choice(None))
    try:
        second = Runner(sys.executable, relay.start(), sandbox=Choice(None))
        try:
            mine, yours = _cache_of(first), _cache_of(second)
            assert mine != yours
            assert [stat.S_IMODE(each.stat().st_mode) for each in (mine, yours)] == [0o700, 0o700]
            (mine / "cache.db").write_bytes(pickle.dumps(Touch(mine / "pwned")))
            assert list(yours.iterdir()) == []
        finally:
            second.kill()
        first.kill()
        assert not mine.exists()
    finally:
        first.kill()
        relay.stop()


PICTURES = {
    "predictors": [
        {
            "name": "look",
            "lm": "student",
            "signature": {
                "fields": [
                    {"name": "picture", "role": "input", "schema": {"x-dspy-type": "Image"}},
                    {"name": "category", "role": "output"},
                ]
            },
        }
    ]
}


@pytest.mark.record("CVE-2025-12695")
def test_no_file_is_read_that_a_row_names_or_an_answer_would(api: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_text(CANARY)
    program = api.post("/v1/programs", json=PICTURES).json()["id"]
    named: list[Any] = [
        str(secret),
        f"file://{secret}",
        {"url": f"file://{secret}"},
        {"url": str(secret), "download": True},
        "/proc/self/environ",
    ]
    for picture in named:
        reply = api.post(f"/v1/programs/{program}/render", json={"inputs": {"picture": picture}})
        assert reply.status_code == 422, picture
        assert CANARY not in reply.text
        assert "expected an image" in check_row(parse_spec(PICTURES), {"picture": picture})[0].message
    answered = {
        "predictors": [
            {
                **PICTURES["predictors"][0],
                "signature": {
                    "fields": [{"name": "a", "role": "input"}, {"name": "b", "role": "output", "schema": {"x-dspy-type": "Image"}}]
                },
            }
        ]
    }
    assert api.post("/v1/programs", json=answered).status_code == 422


@pytest.mark.record("CVE-2026-24123")
def test_no_request_names_a_file_or_a_variable_of_the_server(api: TestClient, tokens: Tokens) -> None:
    for path in (
        "../a.txt",
        "/etc/a.txt",
        "desk/../../a.txt",
        "C:\\a.txt",
        "desk\nX=1",
        "desk/\0.txt",
        "./a.txt",
        "~/a.txt",
        "desk//a.txt",
        ".env",
    ):
        assert api.post("/v1/bundles", json={**BUNDLE, "files": {path: "x"}}).status_code == 422, path
    admin = {"Authorization": f"Bearer {tokens.admin}"}
    own = {"name": "ours", "base_url": "https://api.example.com/v1"}
    for field, value in {"api_key_env": "DATABASE_URL", "api_key_file": "/etc/passwd", "env": {"A\nB": "1"}, "extra_body": {}}.items():
        assert api.post("/v1/connections", json={**own, field: value}, headers=admin).status_code == 422, field
    assert api.post("/v1/connections", json=own, headers=admin).status_code == 201
