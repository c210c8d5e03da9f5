"""Training files, traces and rejections: the same from the SDK, sync and async, and from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Shell, reply, scripted, scripted_async

PATH = "/v1/compile_jobs/cjob-1"
LINES = '{"prompt": [], "completion": [{"role": "assistant", "content": "é"}]}\n'
FILE = {"fine_tuning_job": "ftjob-1", "lm": "student", "predictor": "writers['again']", "rows": 2, "validation_rows": 1, "digest": "a" * 64}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(monkeypatch)


def files(**more: Any) -> httpx.Response:
    return reply({"object": "list", "data": [FILE], "has_more": False, **more})


def trace(row: int, value: float = 1.0) -> dict[str, Any]:
    score = {"value": value, "passed": value == 1.0}
    return {"id": f"trace-{row}", "row": row, "role": "teacher:0", "status": "ok", "outputs": {"team": "Bücher"}, "score": score}


class TestSdk:
    def test_coverage_is_there_once_prepare_is_done(self) -> None:
        client, script = scripted(files(), files(coverage={"traces": 9, "passed": 7, "keys": [{"lm": "student", "rows": 7}]}))
        assert client.compile_jobs.coverage("cjob-1") is None
        found = client.compile_jobs.coverage("cjob-1")
        assert found is not None
        assert (found.traces, found.passed, found.keys[0]["rows"]) == (9, 7, 7)
        assert script.requests[0].url.path == f"{PATH}/training_files"

    def test_a_training_file_is_written_as_it_came(self, tmp_path: Path) -> None:
        client, script = scripted(httpx.Response(200, text=LINES))
        written = client.compile_jobs.download_training_file(
            "cjob-1", "ftjob-1", tmp_path / "rows.jsonl", format="openai", part="validation"
        )
        assert written.read_text() == LINES
        assert script.requests[0].url.path == f"{PATH}/training_files/ftjob-1/content"
        assert dict(script.requests[0].url.params) == {"format": "openai", "part": "validation"}

    def test_a_record_ends_at_its_newline_and_nowhere_else(self) -> None:
        record = {"prompt": [], "completion": [{"role": "assistant", "content": "one\u2028two\u0085three"}]}
        body = f"{json.dumps(record, ensure_ascii=False)}\n" * 2

        async def ask() -> list[dict[str, Any]]:
            client, _ = scripted_async(httpx.Response(200, text=body))
            async with client:
                return [each async for each in client.compile_jobs.training_records("cjob-1", "ftjob-1")]

        client, _ = scripted(httpx.Response(200, text=body))
        assert list(client.compile_jobs.training_records("cjob-1", "ftjob-1")) == asyncio.run(ask()) == [record] * 2

    def test_lists_are_narrowed(self) -> None:
        client, script = scripted(reply({"data": [], "has_more": False}))
        client.compile_jobs.traces.list("cjob-1", role="baseline", passed=False, predictor="self", limit=5, order="asc")
        client.compile_jobs.rejections("cjob-1", reason="too_long", predictor="self", limit=5)
        narrowed = {"role": "baseline", "passed": "false", "predictor": "self", "limit": "5", "order": "asc"}
        assert [dict(request.url.params) for request in script.requests] == [
            narrowed,
            {"reason": "too_long", "predictor": "self", "limit": "5"},
        ]

    def test_the_async_client_says_the_same(self, tmp_path: Path) -> None:
        async def ask() -> tuple[Any, Path]:
            client, script = scripted_async(
                files(coverage={"traces": 9, "passed": 7}), httpx.Response(200, text=LINES), reply({"data": []})
            )
            async with client:
                coverage = await client.compile_jobs.coverage("cjob-1")
                written = await client.compile_jobs.download_training_file("cjob-1", "ftjob-1", tmp_path / "rows.jsonl")
                await client.compile_jobs.traces.list("cjob-1", passed=True)
                assert dict(script.requests[2].url.params) == {"passed": "true"}
            return coverage, written

        coverage, written = asyncio.run(ask())
        assert (coverage.traces, written.read_text()) == (9, LINES)


class TestCli:
    def test_training_files_are_listed(self, shell: Shell) -> None:
        shell.answers(files())
        result = shell.run("jobs", "training-files", "cjob-1")
        assert result.exit_code == Exit.OK, result.output
        assert all(word in result.output for word in ("ftjob-1", "student", "writers['again']", "aaaaaaaaaaaa"))

    def test_training_files_are_written_into_a_folder(self, shell: Shell, tmp_path: Path) -> None:
        shell.answers(files(), httpx.Response(200, text=LINES), httpx.Response(200, text="{}\n"))
        result = shell.run("jobs", "training-files", "cjob-1", "--output", str(tmp_path / "new" / "rows"), "--format", "openai")
        assert result.exit_code == Exit.OK, result.output
        train, validation = (tmp_path / "new" / "rows" / f"student-writers-again-{part}.jsonl" for part in ("train", "validation"))
        assert result.output.split() == [str(train), str(validation)]
        assert (train.read_text(), validation.read_text()) == (LINES, "{}\n")
        asked = [dict(request.url.params) for request in shell.script.requests[1:]]
        assert asked == [{"format": "openai", "part": "train"}, {"format": "openai", "part": "validation"}]

    def test_traces_as_a_table_are_one_page(self, shell: Shell) -> None:
        shell.answers(reply({"data": [trace(row) for row in range(1, 21)], "has_more": True, "last_id": "x"}))
        result = shell.run("jobs", "traces", "cjob-1", "--role", "teacher:0", "--failed")
        assert result.exit_code == Exit.OK, result.output
        assert len(result.output.splitlines()) == 21
        assert "Bücher" in result.output
        (request,) = shell.script.requests
        assert dict(request.url.params) == {"role": "teacher:0", "passed": "false", "limit": "20", "order": "asc"}

    def test_traces_as_lines_are_all_of_them(self, shell: Shell) -> None:
        shell.answers(
            reply({"data": [trace(1), trace(2)], "has_more": True, "last_id": "x"}), reply({"data": [trace(3)], "has_more": False})
        )
        lines = shell.run("jobs", "traces", "cjob-1", "--json").stdout.splitlines()
        assert [json.loads(line)["row"] for line in lines] == [1, 2, 3]
        assert dict(shell.script.requests[1].url.params) == {"limit": "100", "order": "asc", "after": "x"}

    def test_rejections_say_why(self, shell: Shell) -> None:
        rejection = {"row": 4, "predictor": "self", "reason": "too_long", "message": "The row has 90 tokens [x]"}
        shell.answers(reply({"data": [rejection], "has_more": False}))
        result = shell.run("jobs", "rejections", "cjob-1", "--reason", "too_long", "--limit", "3")
        assert result.exit_code == Exit.OK, result.output
        assert all(word in result.output for word in ("too_long", "self", "The row has 90 tokens [x]"))
        assert dict(shell.script.requests[0].url.params) == {"reason": "too_long", "limit": "3", "order": "asc"}
