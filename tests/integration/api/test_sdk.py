"""The SDK and the command line against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from distill.db import unit_of_work
from distill.jobs import events
from stillhouse import AsyncStillhouse, DamagedArtifact, NotFoundError, PermissionDeniedError, Stillhouse, UnprocessableEntityError
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, SPEC, Tokens
from tests.integration.api.finished import finish


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[Stillhouse]:
    with Stillhouse(address, tokens.all) as made:
        yield made


class TestSdk:
    def test_a_job_from_upload_to_cancel(self, client: Stillhouse, tmp_path: Path) -> None:
        program = client.programs.create(SPEC, name="router")
        assert (program.inputs, program.outputs, program.lms) == (["message"], ["category"], ["student"])
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        dataset = client.datasets.create(tmp_path / "train.jsonl", name="support")
        assert client.datasets.rows(dataset.id, start=2, limit=1).data[0].data == ROWS[1]
        job = client.compile_jobs.create(program=program.id, trainset="support@latest", metric="exact_match", idempotency_key="k")
        assert client.compile_jobs.create(program=program.id, trainset="support@latest", metric="exact_match", idempotency_key="k") == job
        assert [one.id for one in client.compile_jobs.list(status="queued")] == [job.id]
        assert client.compile_jobs.update(job.id, metadata={"a": "1"}).metadata == {"a": "1"}
        client.compile_jobs.cancel(job.id)
        assert client.compile_jobs.wait(job.id, timeout=20).status == "cancelled"

    def test_what_a_job_may_name(self, client: Stillhouse, address: str, tokens: Tokens) -> None:
        named = {connection.name: connection for connection in client.connections.list()}
        assert {name: each.models for name, each in named.items()} == {"house": ["tiny"], "big": ["big-model"]}
        assert (named["house"].default_student, named["big"].default_teacher, named["house"].trainer) == (True, True, "local")

        async def go() -> list[str]:
            async with AsyncStillhouse(address, tokens.all) as other:
                return [connection.name async for connection in await other.connections.list()]

        assert asyncio.run(go()) == list(named)

    def test_what_came_around_a_reply(self, client: Stillhouse) -> None:
        create = client.compile_jobs.with_raw_response.create
        first, again = (create(program=SPEC, trainset=ROWS, auto_start=False, idempotency_key="k") for _ in range(2))
        assert (first.status_code, first.parse()) == (201, again.parse())
        assert [reply.headers.get("idempotent-replayed") for reply in (first, again)] == [None, "true"]
        assert first.request_id != again.request_id

    def test_a_stream_follows_what_happens(self, client: Stillhouse) -> None:
        job = client.compile_jobs.create(program=SPEC, trainset=ROWS)
        seen = []
        for event in client.compile_jobs.events.stream(job.id):
            seen.append((event.id, event.type))
            if len(seen) == 1:
                with unit_of_work() as s:
                    events.append(s, job.id, "log", "hello")
                client.compile_jobs.cancel(job.id)
        assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
        assert seen[-1][1] == "done"
        assert ("log" in [kind for _, kind in seen]) is True

    def test_a_download_goes_on_with_what_has_come(self, client: Stillhouse, api: TestClient, tmp_path: Path) -> None:
        artifact = finish(api).artifact_id
        part = tmp_path / f".out.{artifact}.part"
        part.mkdir()
        (part / "README.md").write_text("# ro")
        folder = client.artifacts.download(artifact, tmp_path / "out")
        assert (folder / "README.md").read_text() == "# router"
        (tmp_path / f".wrong.{artifact}.part").mkdir()
        (tmp_path / f".wrong.{artifact}.part" / "README.md").write_text("x ro")
        with pytest.raises(DamagedArtifact, match=r"README\.md"):
            client.artifacts.download(artifact, tmp_path / "wrong")

    def test_errors_are_typed(self, client: Stillhouse, address: str, tokens: Tokens) -> None:
        with pytest.raises(NotFoundError):
            client.compile_jobs.retrieve("cjob-nothing")
        with pytest.raises(UnprocessableEntityError) as raised:
            client.compile_jobs.create(program=SPEC, trainset=[*ROWS, {"category": "billing"}])
        assert raised.value.details[0]["row"] == 4
        with Stillhouse(address, tokens.read) as reader, pytest.raises(PermissionDeniedError):
            reader.programs.create(SPEC)

    def test_async(self, address: str, tokens: Tokens) -> None:
        async def go() -> str:
            async with AsyncStillhouse(address, tokens.all) as client:
                job = await client.compile_jobs.create(program=SPEC, trainset=ROWS)
                await client.compile_jobs.cancel(job.id)
                kinds = [event.type async for event in client.compile_jobs.events.stream(job.id)]
                return kinds[-1]

        assert asyncio.run(go()) == "done"


class TestCommandLine:
    def test_a_job_from_a_file(self, address: str, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.all)
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        (tmp_path / "train.csv").write_text("message,category\nI was charged twice,billing\nIt crashes,technical\n")
        (tmp_path / "job.yaml").write_text("program: {file: spec.json}\ntrainset: {file: train.csv}\nauto_start: false\n")
        shell = CliRunner()
        made = shell.invoke(app, ["jobs", "create", "-f", str(tmp_path / "job.yaml"), "--json"])
        assert made.exit_code == Exit.OK, made.output
        job = json.loads(made.stdout)
        assert job["status"] == "created"
        assert shell.invoke(app, ["jobs", "cancel", job["id"]]).exit_code == Exit.OK
        assert shell.invoke(app, ["jobs", "get", job["id"], "--wait", "--json"]).exit_code == Exit.CANCELLED
        shown = shell.invoke(app, ["jobs", "events", job["id"], "--follow", "--json"])
        assert json.loads(shown.stdout.splitlines()[-1])["type"] == "done"
