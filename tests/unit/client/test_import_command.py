"""`stillhouse jobs import`, as far as it says what is wrong with its files before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Shell, job, reply

JOB = "program: {predictors: []}\ntrainset: [{a: 1}]\nmetric: exact_match\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "traces.jsonl").write_text(json.dumps({"inputs": {}, "outputs": {}}))
    return tmp_path


def refusal(shell: Shell, files: Path, *options: str) -> str:
    """What it says; no request was sent."""
    shell.answers(reply(job()))
    result = shell.run("jobs", "import", str(files / "traces.jsonl"), "-f", str(files / "job.yaml"), *options)
    assert result.exit_code == Exit.USAGE, result.exception
    assert shell.script.requests == []
    return result.output


class TestRefusals:
    def test_a_predictor_without_its_span(self, shell: Shell, files: Path) -> None:
        assert "'foo': expected name=value" in refusal(shell, files, "--predictor", "foo")

    def test_rollouts_that_are_no_mapping(self, shell: Shell, files: Path) -> None:
        (files / "job.yaml").write_text(f"{JOB}rollouts: 8\n")
        assert "job.yaml line 4: rollouts is a mapping" in refusal(shell, files)

    @pytest.mark.parametrize("format", ["jsonl", "openinference", "langfuse"])
    def test_an_export_that_is_no_text(self, shell: Shell, files: Path, format: str) -> None:
        (files / "traces.jsonl").write_bytes(b"\xff\xfe\x00")
        assert "traces.jsonl: " in refusal(shell, files, "--format", format)

    def test_an_export_that_is_no_json(self, shell: Shell, files: Path) -> None:
        (files / "traces.jsonl").write_text("{}\n{")
        assert "traces.jsonl line 2: not valid JSON" in refusal(shell, files, "--format", "langfuse")
