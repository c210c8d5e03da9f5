"""Verbs of the command line against a real server: what they do there, what they print, and the code they exit with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.main import get_command

from distill.db import unit_of_work
from distill.jobs import repository
from distill.settings import get_settings
from distill.storage import FolderStore
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, SPEC, Run, Tokens
from tests.integration.api.finished import MODEL, Finished, finish, load, trained
from tests.integration.core.world import execute
from tests.support.scripted_lm import ScriptedLM

URL = "https://example.com/hook"
CONVERSATION = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Grüezi"}]}\n'.encode()
SECOND = "sh-router-self-second00"


@pytest.fixture
def finished(api: TestClient) -> Finished:
    return finish(api)


def cancelled(known: Run, finished: Finished) -> str:
    """A job that is over."""
    assert known("jobs", "cancel", finished.job_id).exit_code == Exit.OK
    assert known("jobs", "watch", finished.job_id, "--timeout", "20s").exit_code == Exit.CANCELLED
    return finished.job_id


def gone(known: Run, *ask: str) -> None:
    """The server does not have it: one line and the request's id, no traceback."""
    missing = known(*ask)
    assert missing.exit_code == Exit.FAILED, missing.output
    assert "not_found" in missing.stderr
    assert len(missing.stderr.splitlines()) <= 2
    assert "Traceback" not in missing.output


class TestDeletes:
    def test_a_dataset(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("message,category\nIt crashes,technical\n")
        for _ in range(2):
            pushed = json.loads(known("datasets", "push", "rows.csv", "--name", "support", "--json").stdout)
        assert json.loads(known("datasets", "delete", "support@v2", "--yes", "--json").stdout)["deleted"] is True
        gone(known, "datasets", "get", pushed["id"])
        assert known("datasets", "get", "support@v1").exit_code == Exit.OK

    def test_nothing_that_was_only_looked_at_or_not_confirmed(self, known: Run, finished: Finished) -> None:
        ask = ("jobs", "delete", finished.job_id)
        open_one = known(*ask, "--dry-run")
        assert open_one.exit_code == Exit.OK
        assert "refused: job" in open_one.stdout
        refused = known(*ask)
        assert refused.exit_code == Exit.FAILED
        assert "cancel it" in refused.stderr
        cancelled(known, finished)
        with_artifacts = (*ask, "--with-artifacts")
        assert "traces" in json.loads(known(*with_artifacts, "--dry-run", "--json").stdout)["removes"]
        unconfirmed = known(*with_artifacts)
        assert unconfirmed.exit_code == Exit.FAILED
        assert "cannot be undone" in unconfirmed.stderr
        assert known("jobs", "get", finished.job_id).exit_code == Exit.OK
        assert "deleted" in known(*with_artifacts, "--yes").stdout
        gone(known, "jobs", "get", finished.job_id)
        gone(known, "datasets", "delete", "support@v2")

    def test_a_file(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "a [b].jsonl").write_bytes(CONVERSATION)
        pushed = json.loads(known("files", "push", "a [b].jsonl", "--json").stdout)
        assert (pushed["filename"], pushed["bytes"], pushed["purpose"]) == ("a [b].jsonl", len(CONVERSATION), "fine-tune")
        assert "a [b].jsonl" in known("files", "list").stdout
        assert f"{len(CONVERSATION)} bytes" in known("files", "get", pushed["id"], "--output", "back.jsonl").stdout
        assert (tmp_path / "back.jsonl").read_bytes() == CONVERSATION
        assert json.loads(known("files", "delete", pushed["id"], "--json").stdout) == {"id": pushed["id"], "deleted": True}
        gone(known, "files", "get", pushed["id"])

    def test_a_bundle(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "support.py").write_text("import dspy\n\ndef right(example, prediction, trace=None):\n    return True\n")
        for _ in range(2):
            made = json.loads(known("bundles", "create", "support.py", "--json").stdout)
        assert (made["modules"], list(made["packages"]), made["pickles"]) == (["support"], ["dspy"], [])
        assert [each["id"] for each in json.loads(known("bundles", "list", "--json").stdout)] == [made["id"]], "it is the same one"
        assert "modules support; needs dspy" in known("bundles", "get", made["id"]).stdout
        assert json.loads(known("bundles", "delete", made["id"], "--json").stdout) == {"id": made["id"], "deleted": True}
        gone(known, "bundles", "get", made["id"])
        (tmp_path / "json.py").write_text("")
        refused = known("bundles", "create", "json.py")
        assert (refused.exit_code, "is a module of Python itself" in refused.stderr) == (Exit.USAGE, True)

    def test_a_program(self, known: Run, tmp_path: Path) -> None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        made = json.loads(known("programs", "create", "spec.json", "--name", "router", "--json").stdout)
        assert "router" in known("programs", "list").stdout
        assert json.loads(known("programs", "get", made["id"], "--json").stdout)["spec"] == made["spec"]
        assert "deleted" in known("programs", "delete", made["id"]).stdout
        gone(known, "programs", "get", made["id"])
        assert json.loads(known("programs", "list", "--json").stdout) == []

    def test_an_artifact_once_no_alias_points_at_it(self, known: Run, finished: Finished) -> None:
        cancelled(known, finished)
        assert known("artifacts", "promote", finished.artifact_id, "--alias", "prod").exit_code == Exit.OK
        for ref in (finished.artifact_id, "router@prod"):
            assert json.loads(known("artifacts", "get", ref, "--json").stdout)["id"] == finished.artifact_id
        shown = known("artifacts", "get", "router@prod").stdout
        assert shown.startswith(f"{finished.artifact_id}  router of {finished.job_id}; self is {MODEL}")
        listed = {name: json.loads(known("artifacts", "list", "--program", name, "--json").stdout) for name in ("router", "other")}
        assert {name: [each["id"] for each in found] for name, found in listed.items()} == {"router": [finished.artifact_id], "other": []}
        refused = known("artifacts", "delete", finished.artifact_id)
        assert (refused.exit_code, "router@prod" in refused.stderr) == (Exit.FAILED, True)
        assert json.loads(known("aliases", "delete", "router@prod", "--json").stdout) == {"name": "router@prod", "deleted": True}
        assert json.loads(known("aliases", "list", "--json").stdout) == []
        assert known("artifacts", "delete", finished.artifact_id).exit_code == Exit.OK
        gone(known, "artifacts", "download", finished.artifact_id)

    def test_a_model_once_no_job_needs_it(self, known: Run, finished: Finished) -> None:
        trained(finished)
        refused = known("models", "delete", MODEL)
        assert (refused.exit_code, finished.job_id in refused.stderr) == (Exit.FAILED, True)
        cancelled(known, finished)
        assert known("models", "get", MODEL).stdout.startswith(f"{MODEL}  loading; on tiny, of house")
        assert json.loads(known("models", "get", MODEL, "--json").stdout)["status"] == "loading"
        assert json.loads(known("models", "delete", MODEL, "--json").stdout) == {"id": MODEL, "deleted": True}
        gone(known, "models", "get", MODEL)
        assert MODEL not in known("models", "list").stdout

    def test_a_key_and_a_webhook(self, known: Run, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.admin)
        key = json.loads(known("keys", "create", "--label", "ci", "--scopes", "jobs:read", "--json").stdout)
        assert json.loads(known("keys", "revoke", key["id"], "--json").stdout) == {"id": key["id"], "revoked": True, "cancelled_jobs": 0}
        monkeypatch.setenv("STILLHOUSE_API_KEY", key["token"])
        ended = known("me")
        assert (ended.exit_code, "revoked" in ended.stderr) == (Exit.FAILED, True)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.admin)
        made = json.loads(known("webhooks", "create", URL, "--events", "compile_job.succeeded", "--json").stdout)
        assert json.loads(known("webhooks", "delete", made["id"], "--json").stdout) == {"id": made["id"], "deleted": True}
        assert json.loads(known("webhooks", "list", "--json").stdout) == []


class TestConnections:
    def test_each_is_told_by_what_jobs_call_it(self, known: Run) -> None:
        table = [line.split() for line in known("connections", "list").stdout.splitlines()]
        assert table[0][0] == "NAME"
        assert {"big", "house"} <= {line[0] for line in table}
        assert {one["name"] for one in json.loads(known("connections", "list", "--json").stdout)} == {"house", "big"}


class TestJobs:
    def test_a_wait_that_ends_first_leaves_the_job_going_on(self, known: Run, finished: Finished) -> None:
        for verb in (["watch"], ["get", "--wait"]):
            ended = known("jobs", *verb, finished.job_id, "--timeout", "1s", "--json")
            assert ended.exit_code == Exit.TIMEOUT, ended.output
            assert "it goes on" in ended.stderr
        assert json.loads(known("jobs", "get", finished.job_id, "--json").stdout)["status"] == "queued"

    def test_a_watched_job_is_told_at_each_change(self, known: Run, finished: Finished) -> None:
        job = cancelled(known, finished)
        watched = known("jobs", "watch", job, "--json")
        assert watched.exit_code == Exit.CANCELLED
        assert [json.loads(line)["status"] for line in watched.stdout.splitlines()] == ["cancelled"]

    def test_logs_by_their_end_and_until_the_job_is_over(self, known: Run, finished: Finished) -> None:
        with unit_of_work() as s:
            (child,) = repository.fine_tune_jobs(s, finished.job_id)
            child.log = FolderStore(get_settings().blob_root).put(b"loss 0.5\nloss 0.25\n")
        assert known("jobs", "logs", finished.job_id, "--tail", "1").stdout.splitlines()[1:] == ["loss 0.25"]
        job = cancelled(known, finished)
        followed = known("jobs", "logs", job, "-f")
        assert (followed.exit_code, followed.stdout.splitlines()[1:]) == (Exit.OK, ["loss 0.5", "loss 0.25"])
        assert json.loads(known("jobs", "logs", job, "-f", "--json").stdout)["text"] == "loss 0.5\nloss 0.25\n"

    def test_a_report_without_held_out_rows_says_what_is_missing(self, known: Run, finished: Finished) -> None:
        told = known("jobs", "report", finished.job_id, "--markdown")
        assert (told.exit_code, told.stdout.splitlines()[0]) == (Exit.OK, "# router")
        assert set(json.loads(known("jobs", "report", finished.job_id, "--json").stdout)) == {"job", "evaluation", "regressions", "fixes"}


def measured(artifact_id: str, against: str, value: float, low: float, high: float) -> None:
    """What the artifact's job found out about it beside another."""
    manifest = {
        "evaluation": {"incumbent": {"artifact": against}, "delta": {"against": "incumbent", "value": value, "low": low, "high": high}}
    }
    execute("UPDATE artifacts SET manifest = :manifest WHERE id = :id", manifest=json.dumps(manifest), id=artifact_id)


class TestPromote:
    @pytest.mark.parametrize(
        ("delta", "code", "said"),
        [
            ((-0.2, -0.3, -0.1), Exit.WORSE, "which is below zero"),
            ((0.1, -0.1, 0.3), Exit.INCONCLUSIVE, "which does not lie above zero"),
            (None, Exit.INCONCLUSIVE, "was not measured against router@prod"),
            ((0.2, 0.1, 0.3), Exit.OK, ""),
        ],
    )
    def test_exits_by_what_was_measured(
        self, known: Run, api: TestClient, finished: Finished, delta: tuple[float, float, float] | None, code: Exit, said: str
    ) -> None:
        other = finish(api, model=SECOND).artifact_id
        assert known("artifacts", "promote", finished.artifact_id, "--alias", "prod", "--against", "prod").exit_code == Exit.OK
        if delta:
            measured(other, finished.artifact_id, *delta)
        done = known("artifacts", "promote", other, "--alias", "prod", "--against", "prod", "--min-delta", "0")
        assert (done.exit_code, said in done.stderr) == (code, True), done.output
        stands = json.loads(known("aliases", "list", "--json").stdout)[0]["artifact"]
        assert stands == (other if code == Exit.OK else finished.artifact_id)


class TestAsking:
    @pytest.fixture
    def lm(self) -> Iterator[ScriptedLM]:
        with ScriptedLM(answer={"crashes": {"category": "technical"}, "Hello": "Good day."}, models=("tiny", MODEL)) as server:
            yield server

    @pytest.fixture
    def lm_url(self, lm: ScriptedLM) -> str:
        return lm.url

    def test_a_program_answers_by_field(self, known: Run, finished: Finished) -> None:
        load(finished)
        called = known("artifacts", "call", finished.artifact_id, "message=It crashes", "--json")
        assert called.exit_code == Exit.OK, called.output
        assert json.loads(called.stdout)["outputs"] == {"category": "technical"}
        wrong = known("artifacts", "call", finished.artifact_id, "massage=It crashes")
        assert (wrong.exit_code, "message" in wrong.stderr, "Traceback" in wrong.output) == (Exit.USAGE, True, False)


def leaves(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Each command that does something, with its parameters."""
    below = getattr(command, "commands", {})
    for name, each in below.items():
        yield from leaves(each, *names, name)
    if not below:
        yield names, command.params


ALL = "jobs:read,jobs:write,aliases:write,models:use,admin"
FILES = {"file": "job.json", "paths": "rows.jsonl", "traces": "export.jsonl", "examples": "rows.jsonl", "predictions": "rows.jsonl"}
GIVEN = {**FILES, "inputs": "a=b", "name": "router@prod", "url": URL, "events": "compile_job.succeeded", "alias": "prod"}


class TestEveryCommand:
    @pytest.mark.slow
    def test_prints_json_or_one_line_of_what_is_wrong(
        self, known: Run, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "job.json").write_text(json.dumps({"program": SPEC, "trainset": ROWS, "metric": "exact_match"}))
        (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
        (tmp_path / "export.jsonl").write_bytes(b"\xff")  # no text: refused before a job is made, which nobody here would do
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.admin)
        monkeypatch.setenv("STILLHOUSE_API_KEY", known("keys", "create", "--label", "ci", "--scopes", ALL).stdout.strip())
        seen: dict[bool, set[str]] = {True: set(), False: set()}
        for names, parameters in leaves(get_command(app)):
            given = {**GIVEN, "file": "rows.jsonl"} if names[0] == "datasets" else GIVEN
            result = known(*names, *(word for each in parameters if each.required for word in _words(each, given)), "--json")
            assert result.exit_code in set(Exit), (names, result.exception)
            if result.exit_code == Exit.OK:
                _read(result.stdout)
            else:
                assert (result.stdout, result.stderr[:6], "Traceback" in result.stderr) == ("", "error ", False), names
            seen[result.exit_code == Exit.OK].add(" ".join(names))
        assert {"me", "jobs list", "jobs create", "jobs estimate", "keys list", "datasets push", "models list"} <= seen[True]
        assert {"login", "jobs get", "jobs watch", "jobs logs", "jobs report", "artifacts call", "aliases delete"} <= seen[False]


def _words(parameter: Any, given: dict[str, str]) -> list[str]:
    value = given.get(str(parameter.name), "nothing-there")
    return [parameter.opts[0], value] if parameter.param_type_name == "option" else [value]


def _read(text: str) -> None:
    """One JSON document, or one a line. Raises ValueError for anything else."""
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


class TestCompletion:
    def test_a_shell_gets_a_script_that_asks_the_command(self, tmp_path: Path) -> None:
        command = Path(sys.executable).with_name("stillhouse")
        script = subprocess.run(["bash", "-c", f"{command} --show-completion bash; true"], capture_output=True, text=True, check=True)
        assert "_STILLHOUSE_COMPLETE=complete_bash" in script.stdout
        asked = {"_STILLHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": "stillhouse jo", "COMP_CWORD": "1", "HOME": str(tmp_path)}
        answered = subprocess.run([command], env=asked, capture_output=True, text=True, check=False)
        assert answered.stdout.split() == ["jobs"]
