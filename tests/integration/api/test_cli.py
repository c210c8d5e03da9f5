"""The command line against a real server, as somebody who has just been given an address and a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse._config import login_file
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, SPEC, Run, Tokens


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


class TestDatasets:
    def test_pushed_under_a_name_is_its_next_version(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("message,category\nIt crashes,technical\n")
        pushed = [json.loads(known("datasets", "push", "rows.csv", "--name", "support", "--json").stdout) for _ in range(2)]
        assert [one["version"] for one in pushed] == [1, 2]
        assert json.loads(known("datasets", "get", "support@latest", "--json").stdout)["id"] == pushed[1]["id"]
        assert "support@v2" in known("datasets", "list").stdout


class TestJobFile:
    def test_a_misspelled_field_is_refused_with_its_line_and_the_right_word(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        body = "program: {file: spec.json}\ntrainset: {file: rows.jsonl}\nmetric: exact_match\n"
        (tmp_path / "job.yaml").write_text(f"# weekly\n{body}rollouts:\n  n: 2\n  temprature: 1\n")
        refused = known("jobs", "create", "-f", "job.yaml")
        assert refused.exit_code == Exit.USAGE
        assert "job.yaml line 7" in refused.stderr
        assert 'did you mean "temperature"' in refused.stderr

    def test_the_same_key_again_is_the_same_job_also_with_a_csv(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        rows = "".join(f"{row['message']},{row['category']}\n" for row in ROWS)
        (tmp_path / "rows.csv").write_text(f"message,category\n{rows}")
        body = {"program": {"file": "spec.json"}, "trainset": {"file": "rows.csv"}, "metric": "exact_match", "auto_start": False}
        (tmp_path / "job.json").write_text(json.dumps(body))
        made = [known("jobs", "create", "-f", "job.json", "--idempotency-key", "run-1", "--json") for _ in range(2)]
        assert [one.exit_code for one in made] == [Exit.OK, Exit.OK], made[1].output
        assert len({json.loads(one.stdout)["id"] for one in made}) == 1
        (tmp_path / "rows.csv").write_text("message,category\nIt crashes,technical\n")
        other = known("jobs", "create", "-f", "job.json", "--idempotency-key", "run-1")
        assert (other.exit_code, "idempotency_key_reused" in other.stderr) == (Exit.USAGE, True)
