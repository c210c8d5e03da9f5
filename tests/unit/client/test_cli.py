"""The command line: what it sends, prints, and exits with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from stillhouse.cli.logs import unseen
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Shell, job, reply

REFUSED = {
    "error": {
        "message": "trainset: 1 of 2 rows cannot be used",
        "code": "invalid_rows",
        "type": "invalid_request_error",
        "details": [{"row": 2, "field": "message", "message": "required input is missing"}],
    }
}


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

    @pytest.mark.parametrize("command", ["create -f FILE --wait", "get cjob-1 --wait", "watch cjob-1"])
    def test_ctrl_c_ends_the_waiting_and_says_that_the_job_goes_on(self, shell: Shell, job_file: str, command: str) -> None:
        def interrupt(request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                return reply(job(), 201)
            raise KeyboardInterrupt

        shell.answers(interrupt)
        result = shell.run("jobs", *command.replace("FILE", job_file).split())
        assert result.exit_code == 130
        assert "cjob-1 goes on" in result.stderr
        assert "Aborted" not in result.output

    @pytest.mark.parametrize("command", ["create -f FILE", "get cjob-1", "resume cjob-1", "retry cjob-1", "refilter cjob-1"])
    def test_a_time_to_wait_goes_with_waiting(self, shell: Shell, job_file: str, command: str) -> None:
        shell.answers(reply(job(), 201))
        result = shell.run("jobs", *command.replace("FILE", job_file).split(), "--timeout", "3h")
        assert (result.exit_code, "goes with --wait" in result.output) == (Exit.USAGE, True)
        assert shell.script.requests == []

    def test_the_same_key_again_names_the_same_upload(self, shell: Shell, tmp_path: Path) -> None:
        for name in ("train.csv", "val.csv"):
            (tmp_path / name).write_text("a\n1\n")
        parts = {"trainset": {"file": "train.csv"}, "valset": {"file": "val.csv"}}
        (tmp_path / "job.json").write_text(json.dumps({"program": "prog-1", **parts}))
        uploaded = reply({"id": "ds-9", "rows": 1}, 201)
        shell.answers(uploaded, uploaded, reply(job(), 201))
        shell.run("jobs", "create", "-f", str(tmp_path / "job.json"), "--idempotency-key", "k")
        keys = [request.headers["idempotency-key"] for request in shell.script.requests if request.method == "POST"]
        assert keys == ["k:trainset", "k:valset", "k"]

    def test_the_same_key_again_shows_the_job_as_it_is_now(self, shell: Shell, job_file: str) -> None:
        shell.answers(reply(job("queued"), 201), reply(job("running")))
        assert "cjob-1  running" in shell.run("jobs", "create", "-f", job_file, "--idempotency-key", "k").stdout

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

    @pytest.mark.parametrize("detail", [{"row": 2, "field": "team", "message": "team: too long"}, {"message": "team: too long"}])
    def test_what_is_said_already_is_not_said_again(self, shell: Shell, job_file: str, detail: dict[str, object]) -> None:
        shell.answers(reply({"error": {"message": "team: too long (row 2)", "code": "invalid_rows", "details": [detail]}}, 422))
        assert shell.run("jobs", "create", "-f", job_file).output.count("too long") == 1

    def test_a_row_without_a_field_has_its_own_place(self, shell: Shell, job_file: str) -> None:
        details = [{"row": 2, "message": "has 1 cell"}, {"row": 3, "field": None, "message": "has 3 cells"}]
        shell.answers(reply({"error": {"message": "2 rows cannot be read", "code": "invalid_rows", "details": details}}, 422))
        assert "  row 2: has 1 cell\n  row 3: has 3 cells\n" in shell.run("jobs", "create", "-f", job_file).output

    def test_who_is_not_known_is_told_where_another_key_goes(self, shell: Shell) -> None:
        shell.answers(reply({"error": {"message": "The API key is unknown.", "code": "invalid_api_key"}}, 401))
        assert "`stillhouse login` takes another key" in shell.run("me").output

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
        assert result.stderr.splitlines() == ["cjob-1 0% running", "cjob-1 0% succeeded"]


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

    @pytest.mark.parametrize(
        ("delta", "said"),
        [
            ({"value": 0.3333, "low": -0.1, "high": 0.7}, "compared with baseline: +0.333 (-0.100 to +0.700), inconclusive"),
            ({"value": None, "low": None, "high": None}, "compared with baseline: inconclusive"),
        ],
    )
    def test_get_shows_by_how_much_it_is_better(self, shell: Shell, delta: dict[str, Any], said: str) -> None:
        scores = {"score": 0.41, "low": 0.3, "high": 0.5, "parse_failures": 0}
        evaluation = {"n": 6, "compiled": scores, "delta": {**delta, "against": "baseline", "verdict": "inconclusive"}}
        shell.answers(reply(job("succeeded", evaluation=evaluation)))
        shown = shell.run("jobs", "get", "cjob-1").stdout
        assert said in shown
        assert "0.300 to 0.500" in shown

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

    @pytest.mark.parametrize("said", ["ends [/INST] here", "see [billing] now", "a \\[x] of [bold]", "it is :smile: [1]"])
    def test_what_an_lm_wrote_is_shown_as_it_wrote_it(self, shell: Shell, said: str) -> None:
        shell.answers(reply({"outputs": {"answer": said}, "latency_ms": 3}))
        result = shell.run("artifacts", "call", "art-1", "message=hi")
        assert result.exit_code == Exit.OK, result.output
        assert said in result.output

    def test_why_a_job_waits_is_shown_as_it_is(self, shell: Shell) -> None:
        waiting = job(queue={"position": 2, "reason": "no worker takes [gpu] jobs"})
        shell.answers(reply({"data": [waiting], "has_more": False}))
        assert "#2: no worker takes [gpu]" in shell.run("jobs", "list").output, "the column may be too narrow for more in one line"
        shell.answers(reply(waiting))
        assert "#2: no worker takes [gpu]" in shell.run("jobs", "get", "cjob-1").output

    @pytest.mark.parametrize("name", ["ends [/b] here", "for [billing]", "a :smile:", "word " * 40 + "end"])
    @pytest.mark.parametrize(("noun", "named"), [("programs", "inputs"), ("datasets", "columns"), ("bundles", "modules")])
    def test_a_name_is_shown_as_it_was_given(self, shell: Shell, noun: str, named: str, name: str) -> None:
        shell.answers(reply({"id": "one-1", "rows": 2, named: [{"name": name} if named == "columns" else name]}))
        result = shell.run(noun, "get", "one-1")
        assert result.exit_code == Exit.OK, result.output
        assert f" {name}" in result.output, "in one line"

    def test_get_says_whether_it_is_better_and_what_its_job_was_labelled_with(self, shell: Shell) -> None:
        delta = {"against": "incumbent", "value": 0.1, "low": 0.02, "high": 0.2, "verdict": "better"}
        made = {"id": "art-1", "name": "router", "compile_job_id": "cjob-1", "models": {"self": "sh-1"}, "metadata": {"git_sha": "9f1c2ab"}}
        shell.answers(reply({**made, "evaluation": {"delta": delta}}))
        result = shell.run("artifacts", "get", "art-1")
        assert result.output == "art-1  router of cjob-1; self is sh-1; better than incumbent; git_sha=9f1c2ab\n"
        shell.answers(reply({**made, "evaluation": {"delta": {**delta, "verdict": "inconclusive"}}, "metadata": {}}))
        assert shell.run("artifacts", "get", "art-1").output.endswith("; inconclusive against incumbent\n")

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
