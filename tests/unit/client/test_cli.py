"""The command line: what it sends, prints, and exits with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from stillhouse.cli.logs import unseen
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, Script, job, reply, scripted

REFUSED = {
    "error": {
        "message": "trainset: 1 of 2 rows cannot be used",
        "code": "invalid_rows",
        "type": "invalid_request_error",
        "details": [{"row": 2, "field": "message", "message": "required input is missing"}],
    }
}


class Shell:
    """Runs commands against scripted answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.script = Script([])

    def answers(self, *answers: Answer) -> None:
        client, self.script = scripted(*answers, max_retries=0)
        self._monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def sent(self, number: int = 0) -> Any:
        return json.loads(self.script.requests[number].content)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(monkeypatch)


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "spec.json").write_text('{"predictors": []}')
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "job.yaml").write_text(
        "# comments are welcome\nprogram: {file: spec.json}\ntrainset: {file: train.jsonl}\nmetric: {type: exact_match}\n"
        "metadata: {team: support}\n"
    )
    return str(tmp_path / "job.yaml")


class TestCreate:
    def test_files_are_read_in(self, shell: Shell, job_file: str) -> None:
        shell.answers(reply(job(), 201))
        result = shell.run("jobs", "create", "-f", job_file, "--metadata", "sha=9f", "--idempotency-key", "k")
        assert result.exit_code == Exit.OK, result.output
        assert shell.sent() == {
            "program": {"predictors": []},
            "trainset": [{"a": 1}, {"a": 2}],
            "metric": {"type": "exact_match"},
            "metadata": {"team": "support", "sha": "9f"},
        }
        assert shell.script.requests[0].headers["idempotency-key"] == "k"
        assert "cjob-1" in result.output

    def test_a_csv_is_uploaded_since_only_the_server_knows_its_types(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("a\n1\n")
        (tmp_path / "job.json").write_text(json.dumps({"program": "prog-1", "trainset": {"file": "train.csv"}}))
        shell.answers(reply({"id": "ds-9", "rows": 1}, 201), reply(job(), 201))
        assert shell.run("jobs", "create", "-f", str(tmp_path / "job.json")).exit_code == Exit.OK
        assert shell.sent(1)["trainset"] == "ds-9"

    def test_the_same_key_again_names_the_same_upload(self, shell: Shell, tmp_path: Path) -> None:
        for name in ("train.csv", "val.csv"):
            (tmp_path / name).write_text("a\n1\n")
        parts = {"trainset": {"file": "train.csv"}, "valset": {"file": "val.csv"}}
        (tmp_path / "job.json").write_text(json.dumps({"program": "prog-1", **parts}))
        uploaded = reply({"id": "ds-9", "rows": 1}, 201)
        shell.answers(uploaded, uploaded, reply(job(), 201))
        shell.run("jobs", "create", "-f", str(tmp_path / "job.json"), "--idempotency-key", "k")
        keys = [request.headers["idempotency-key"] for request in shell.script.requests]
        assert keys == ["k:trainset", "k:valset", "k"]

    @pytest.mark.parametrize(("status", "code"), [("succeeded", Exit.OK), ("failed", Exit.FAILED), ("cancelled", Exit.CANCELLED)])
    def test_waiting_exits_by_how_it_ended(self, shell: Shell, job_file: str, status: str, code: Exit) -> None:
        shell.answers(reply(job(), 201), reply(job(status)))
        result = shell.run("jobs", "create", "-f", job_file, "--wait", "--json")
        assert result.exit_code == code
        assert json.loads(result.stdout)["status"] == status

    def test_timeout(self, shell: Shell, job_file: str) -> None:
        shell.answers(reply(job(), 201), reply(job("running")))
        result = shell.run("jobs", "create", "-f", job_file, "--wait", "--timeout", "0s", "--json")
        assert result.exit_code == Exit.TIMEOUT
        assert "goes on" in result.output

    def test_a_refusal_shows_the_rows(self, shell: Shell, job_file: str) -> None:
        shell.answers(reply(REFUSED, 422))
        result = shell.run("jobs", "create", "-f", job_file)
        assert result.exit_code == Exit.USAGE
        assert "row 2 message: required input is missing" in result.output

    @pytest.mark.parametrize("text", ["program: [", "- just\n- a list\n", "program: {file: none.json}\n"])
    def test_bad_files_are_usage(self, shell: Shell, tmp_path: Path, text: str) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / "job.yaml").write_text(text)
        assert shell.run("jobs", "create", "-f", str(tmp_path / "job.yaml")).exit_code == Exit.USAGE
        assert shell.script.requests == []

    def test_a_time_that_is_none_is_told_before_anything_is_sent(self, shell: Shell, job_file: str) -> None:
        shell.answers(reply(job(), 201))
        assert shell.run("jobs", "create", "-f", job_file, "--wait", "--timeout", "soon").exit_code == Exit.USAGE
        assert shell.script.requests == []

    def test_a_line_ends_at_its_newline_and_nowhere_else(self, shell: Shell, job_file: str, tmp_path: Path) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / "train.jsonl").write_text('{"a": "one\u2028two\u0085three"}\n', encoding="utf-8")
        assert shell.run("jobs", "create", "-f", job_file).exit_code == Exit.OK
        assert shell.sent()["trainset"] == [{"a": "one\u2028two\u0085three"}]

    def test_a_bad_line_is_named(self, shell: Shell, job_file: str, tmp_path: Path) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / "train.jsonl").write_text('{"a": 1}\n{"a":\n')
        assert "line 2" in shell.run("jobs", "create", "-f", job_file).output


class TestJobFile:
    TEXT = (
        "# weekly\nprogram: prog-1\ntrainset: {dataset: support, at: latest}\nvalset: {dataset: gold@v3}\n"
        "lms:\n  student.a:\n    temperature: 9\n"
    )

    def refused(self, shell: Shell, tmp_path: Path, param: str) -> str:
        shell.answers(reply({"error": {"message": "no", "code": "invalid_value", "param": param}}, 422))
        (tmp_path / "job.yaml").write_text(self.TEXT + "teacher:\n- lms: {}\n- program: prog-2\n")
        return (
            shell.run("jobs", "create", "-f", str(tmp_path / "job.yaml"))
            .stderr.splitlines()[0]
            .partition("job.yaml ")[2]
            .partition(" (")[0]
        )

    def test_datasets_are_named_with_their_version(self, shell: Shell, tmp_path: Path) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / "job.yaml").write_text(self.TEXT)
        assert shell.run("jobs", "create", "-f", str(tmp_path / "job.yaml")).exit_code == Exit.OK
        assert (shell.sent()["trainset"], shell.sent()["valset"]) == ("support@latest", "gold@v3")

    @pytest.mark.parametrize(
        ("param", "line"),
        [
            ("lms.student.a.temperature", 7),
            ("lms.student.a.max_tokens", 6),
            ("valset", 4),
            ("trainset[3].message", 3),
            ("teacher[1].program", 10),
            ("teacher[7]", 8),
        ],
    )
    def test_a_refusal_names_the_line(self, shell: Shell, tmp_path: Path, param: str, line: int) -> None:
        assert self.refused(shell, tmp_path, param) == f"line {line}: no"

    def test_a_refusal_of_what_is_not_in_the_file_names_none(self, shell: Shell, tmp_path: Path) -> None:
        assert self.refused(shell, tmp_path, "metric.fields") == ""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("program: a\nlms:\n  x: {seed: 1, seed: 2}\n", "line 3: `seed` stands here a second time"),
            ("program: a\ntrainset: {dataset: b, version: 3}\n", "line 2: trainset takes `dataset` and `at`"),
            ("program: a\nlms: [\n", "line 3: not valid YAML"),
        ],
    )
    def test_a_fault_of_the_file_is_told_before_anything_is_sent(self, shell: Shell, tmp_path: Path, text: str, said: str) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / "job.yaml").write_text(text)
        result = shell.run("jobs", "create", "-f", str(tmp_path / "job.yaml"))
        assert (result.exit_code, shell.script.requests) == (Exit.USAGE, [])
        assert said in result.stderr


class TestFiles:
    """What cannot be read is one line that names the file, before anything is sent."""

    @pytest.mark.parametrize(
        ("name", "text", "arguments", "said"),
        [
            ("job.yaml", "program: a\ntrainset: {file: none.csv}\n", "jobs create -f", "line 2: there is no file none.csv"),
            ("job.yaml", "program: a\nvalset:\n  file: none.parquet\n", "jobs estimate -f", "line 2: there is no file none.parquet"),
            ("job.yaml", "program: a\nmetadata: [team]\n", "jobs create -f", "line 2: metadata is a mapping"),
            ("job.yaml", "program: a\n7: b\n", "jobs create -f", "job.yaml: a field has a name, and 7 is none"),
            ("job.yaml", "if_changed: true\n", "jobs create -f", "line 1: if_changed is an option of the command, and no field"),
            ("rows.json", "[{", "datasets push", "rows.json line 1: not valid JSON"),
            ("rows.json", "3", "datasets push", "rows.json: expected a list of rows"),
            ("rows.txt", "a", "datasets push", "rows.txt: expected a .jsonl, .ndjson, .csv, .parquet or .json file"),
            ("more.yaml", "lms: [\n", "jobs refilter cjob-1 -f", "more.yaml line 2: not valid YAML"),
            ("more.yaml", "filter: 3\n", "jobs refilter cjob-1 --top-k 1 -f", "line 1: filter is a mapping"),
            ("spec.json", "[]", "programs create", "spec.json: expected an object"),
        ],
    )
    def test_is_told_in_one_line(self, shell: Shell, tmp_path: Path, name: str, text: str, arguments: str, said: str) -> None:
        shell.answers(reply(job(), 201))
        (tmp_path / name).write_text(text)
        result = shell.run(*arguments.split(), str(tmp_path / name))
        assert (result.exit_code, shell.script.requests, len(result.stderr.splitlines())) == (Exit.USAGE, [], 1)
        assert said in result.stderr

    def test_a_program_by_reference_may_have_its_name_in_the_file(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "program.json").write_text('{"reference": "shop:desk", "name": "desk"}')
        for more, name in (((), "desk"), (("--name", "other"), "other")):
            shell.answers(reply({"id": "prog-1", "inputs": ["a"], "outputs": ["b"]}, 201))
            assert shell.run("programs", "create", str(tmp_path / "program.json"), *more).exit_code == Exit.OK
            assert shell.sent() == {"reference": "shop:desk", "name": name}

    @pytest.mark.parametrize("suffix", [".json", ".jsonl"])
    def test_rows_are_pushed(self, shell: Shell, tmp_path: Path, suffix: str) -> None:
        shell.answers(reply({"id": "ds-9", "rows": 1}, 201))
        (tmp_path / f"rows{suffix}").write_text('[{"a": 1}]' if suffix == ".json" else '{"a": 1}')
        assert shell.run("datasets", "push", str(tmp_path / f"rows{suffix}"), "--name", "support").exit_code == Exit.OK
        assert shell.sent() == ({"rows": [{"a": 1}], "name": "support"} if suffix == ".json" else {"a": 1})


class TestWatch:
    def test_as_json_tells_each_change_and_exits_by_the_end(self, shell: Shell) -> None:
        shell.answers(reply(job()), reply(job("running")), reply(job("cancelled")))
        result = shell.run("jobs", "watch", "cjob-1", "--json")
        assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["queued", "running", "cancelled"]
        assert result.exit_code == Exit.CANCELLED

    def test_shows_the_job_at_its_end(self, shell: Shell) -> None:
        steps = [{"name": "bootstrap", "status": "succeeded", "done": 3, "total": 3}]
        shell.answers(reply(job("running", steps=steps)), reply(job("succeeded", steps=steps, artifact={"id": "art-1"})))
        result = shell.run("jobs", "watch", "cjob-1")
        assert (result.exit_code, "artifact art-1" in result.stdout) == (Exit.OK, True)
        assert "bootstrap 100%" in result.stderr


class TestJobs:
    def test_list_as_a_table(self, shell: Shell) -> None:
        shell.answers(reply({"data": [job("running", step="train", program_name="router", progress={"percent": 61})], "has_more": False}))
        result = shell.run("jobs", "list", "--status", "running")
        assert all(word in result.output for word in ("cjob-1", "running", "train", "61", "router"))
        assert shell.script.requests[0].url.params["status"] == "running"

    def test_list_as_json(self, shell: Shell) -> None:
        shell.answers(reply({"data": [job()], "has_more": False}))
        assert json.loads(shell.run("jobs", "list", "--json").stdout)[0]["id"] == "cjob-1"

    def test_get_shows_steps_scores_and_artifact(self, shell: Shell) -> None:
        evaluation = {"n": 3, "baseline": {"score": 0.41, "low": 0.3, "high": 0.5, "parse_failures": 22}}
        steps = [{"name": "bootstrap", "status": "succeeded", "done": 640, "total": 640, "counts": {"reused": 600}}]
        shell.answers(reply(job("succeeded", evaluation=evaluation, steps=steps, artifact={"id": "art-1"})))
        result = shell.run("jobs", "get", "cjob-1")
        assert result.exit_code == Exit.OK
        assert all(word in result.output for word in ("640/640", "reused 600", "0.410", "22", "art-1"))

    def test_cancel(self, shell: Shell) -> None:
        shell.answers(reply(job("cancelled")))
        assert shell.run("jobs", "cancel", "cjob-1").exit_code == Exit.OK
        assert shell.script.requests[0].url.path == "/v1/compile_jobs/cjob-1/cancel"

    def test_events_follow(self, shell: Shell) -> None:
        data = json.dumps({"id": 1, "created_at": 1, "type": "done", "message": "The job is failed [x]", "level": "info"})
        shell.answers(httpx.Response(200, text=f"id: 1\nevent: done\ndata: {data}\n\n"))
        assert "The job is failed [x]" in shell.run("jobs", "events", "cjob-1", "-f").output

    def test_events_as_json_lines(self, shell: Shell) -> None:
        shell.answers(reply({"data": [{"id": n, "created_at": 1, "type": "log", "message": "m"} for n in (1, 2)], "has_more": False}))
        lines = shell.run("jobs", "events", "cjob-1", "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [1, 2]


class TestArtifacts:
    def test_call(self, shell: Shell) -> None:
        shell.answers(reply({"outputs": {"category": "billing"}}))
        result = shell.run("artifacts", "call", "art-1", "message=I was charged = twice")
        assert "billing" in result.output
        assert shell.sent() == {"inputs": {"message": "I was charged = twice"}}

    def test_not_found_is_a_failure(self, shell: Shell) -> None:
        shell.answers(reply({"error": {"message": "no artifact", "code": "artifact_not_found"}}, 404))
        result = shell.run("artifacts", "download", "art-1")
        assert result.exit_code == Exit.FAILED
        assert "no artifact" in result.output


def leaves(command: Any, name: str = "stillhouse") -> Iterator[tuple[str, set[str]]]:
    """Each command that does something, with its options."""
    below = getattr(command, "commands", {})
    for verb, each in below.items():
        yield from leaves(each, f"{name} {verb}")
    if not below:
        yield name, {option for parameter in command.params for option in parameter.opts}


class TestUsage:
    def test_every_command_speaks_json(self) -> None:
        found = dict(leaves(get_command(app)))
        assert len(found) > 30
        assert [name for name, options in found.items() if "--json" not in options] == []

    def test_no_key(self) -> None:
        result = CliRunner().invoke(app, ["me"])
        assert result.exit_code == Exit.USAGE
        assert "STILLHOUSE_API_KEY" in result.output

    @pytest.mark.parametrize("arguments", [["jobs", "create"], ["nothing"], ["jobs", "get", "x", "--timeout", "soon"]])
    def test_wrong_arguments(self, shell: Shell, arguments: list[str]) -> None:
        shell.answers(reply(job()))
        assert shell.run(*arguments).exit_code == Exit.USAGE

    def test_version(self, shell: Shell) -> None:
        assert shell.run("--version").output.strip().count(".") == 2


class TestPromote:
    FOUND = reply({"id": "art-2", "name": "router"})

    def test_moves_the_alias_of_the_artifacts_program(self, shell: Shell) -> None:
        shell.answers(self.FOUND, reply({"id": "alias-1", "name": "router@prod", "artifact": "art-2"}))
        result = shell.run("artifacts", "promote", "art-2", "--alias", "prod", "--against", "prod", "--min-delta", "0.01")
        assert result.exit_code == Exit.OK, result.output
        assert shell.script.requests[1].url.path == "/v1/aliases/router@prod"
        assert shell.sent(1) == {"artifact": "art-2", "against": "router@prod", "min_delta": 0.01}
        assert "router@prod  art-2" in result.output

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (409, "worse", 5),
            (409, "inconclusive", 6),
            (409, "not_compared", 6),
            (409, "alias_moved", 1),
            (403, "missing_scope", 1),
            (422, "other_program", 2),
        ],
    )
    def test_a_pipeline_can_tell_refusals_apart(self, shell: Shell, status: int, code: str, expected: int) -> None:
        shell.answers(self.FOUND, reply({"error": {"message": "no", "code": code, "type": "conflict_error"}}, status))
        assert shell.run("artifacts", "promote", "art-2", "--alias", "prod", "--against", "prod").exit_code == expected

    def test_history_names_who_moved_it(self, shell: Shell) -> None:
        move = {
            "id": "move-1",
            "created_at": 1,
            "name": "router@prod",
            "artifact": "art-2",
            "previous_artifact": "art-1",
            "moved_by": "key-1",
        }
        shell.answers(reply({"data": [move], "has_more": False}))
        output = shell.run("aliases", "history", "router@prod").output
        assert all(word in output for word in ("art-1", "art-2", "key-1"))


class TestAgain:
    def test_retry_names_the_fine_tune_job(self, shell: Shell) -> None:
        shell.answers(reply(job(round=2)))
        assert shell.run("jobs", "retry", "cjob-1", "--fine-tuning-job", "ftjob-2").exit_code == Exit.OK
        assert shell.script.requests[0].url.path == "/v1/compile_jobs/cjob-1/retry"
        assert shell.sent() == {"fine_tuning_job": "ftjob-2"}

    def test_retry_that_waits_says_how_it_ended(self, shell: Shell) -> None:
        shell.answers(reply(job()), reply(job("failed")))
        assert shell.run("jobs", "retry", "cjob-1", "--wait").exit_code == Exit.FAILED

    def test_refilter_sends_what_was_given_and_what_the_file_holds(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "changes.yaml").write_text("filter: {max_rows: 9}\ntrain_options: {n_epochs: 2}\n")
        shell.answers(reply(job(derived_from="cjob-1"), 201))
        result = shell.run("jobs", "refilter", "cjob-1", "--min-score", "0.5", "-f", str(tmp_path / "changes.yaml"), "--demos", "drop")
        assert result.exit_code == Exit.OK, result.output
        assert shell.sent() == {"filter": {"max_rows": 9, "min_score": 0.5}, "train_options": {"n_epochs": 2}, "demos": "drop"}


def log(text: str, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"fine_tuning_job": f"ftjob-{number}", "lm": "student", "predictor": f"p{number}", "status": "running", "text": text, **more}


def logs(*found: dict[str, Any]) -> httpx.Response:
    return reply({"object": "list", "data": list(found), "has_more": False})


class TestLogs:
    def test_each_is_named_by_lm_and_predictor(self, shell: Shell) -> None:
        shell.answers(logs(log("loss 1\n"), log("loss 2\n", 2)))
        printed = shell.run("jobs", "logs", "cjob-1").output.splitlines()
        assert printed == [
            "==> student, predictor p1 (ftjob-1, running)",
            "loss 1",
            "==> student, predictor p2 (ftjob-2, running)",
            "loss 2",
        ]

    def test_following_shows_each_line_once_until_the_job_is_over(self, shell: Shell) -> None:
        shell.answers(reply(job()), logs(log("a\n")), reply(job()), logs(log("a\nb\n")), reply(job("succeeded")), logs(log("a\nb\nc\n")))
        printed = shell.run("jobs", "logs", "cjob-1", "-f").output.splitlines()
        assert [line for line in printed if not line.startswith("==>")] == ["a", "b", "c"]

    def test_following_as_json_gives_each_piece_once(self, shell: Shell) -> None:
        shell.answers(reply(job()), logs(log("a\n")), reply(job("succeeded")), logs(log("a\nb\n")))
        lines = shell.run("jobs", "logs", "cjob-1", "-f", "--json").stdout.splitlines()
        assert [json.loads(line)["text"] for line in lines] == ["a\n", "b\n"]

    @pytest.mark.parametrize(
        ("shown", "text", "fresh"),
        [(None, "", ""), ("ab", "ab", None), ("ab", "abc", "c"), ("ab", "bc", "bc"), ("x" * 300, "x" * 200 + "y", "y")],
    )
    def test_what_is_new_in_a_log_that_begins_later(self, shown: str | None, text: str, fresh: str | None) -> None:
        assert unseen(shown, text) == fresh
