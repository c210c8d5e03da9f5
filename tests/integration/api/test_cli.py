"""The command line against a real server, as somebody who has just been given an address and a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stillhouse._config import login_file
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import Tokens

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A shell of somebody who has no credentials yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=typed)

    return call


class TestLogin:
    def test_a_key_is_checked_before_it_is_stored_and_used_until_the_logout(self, address: str, tokens: Tokens, run: Run) -> None:
        refused = run("login", address, typed=f"{tokens.read}x\n")
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (Exit.FAILED, 1)
        assert "does not know this key" in refused.stderr
        assert tokens.read not in refused.output
        assert not login_file().exists()
        done = run("login", f"{address}/", "--json", typed=f"{tokens.read}\n")
        assert done.exit_code == Exit.OK, done.output
        assert json.loads(done.stdout) | {"file": ""} == {"base_url": address, "project": "support", "scopes": ["jobs:read"], "file": ""}
        assert json.loads(run("me", "--json").stdout)["project"] == "support"
        assert run("logout").exit_code == Exit.OK
        assert run("me").exit_code == Exit.USAGE

    def test_nobody_there_is_one_line_with_what_to_do(self, run: Run) -> None:
        nobody = run("login", "http://127.0.0.1:9", typed="sh_a_b\n")
        assert (nobody.exit_code, len(nobody.stderr.splitlines())) == (Exit.FAILED, 1)
        assert "http://127.0.0.1:9 was not reached" in nobody.stderr
        assert "is this its address" in nobody.stderr

    def test_what_hides_a_login_is_told(self, address: str, tokens: Tokens, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.use)
        done = run("login", address, typed=f"{tokens.read}\n")
        assert "STILLHOUSE_API_KEY is used here instead" in done.stderr
