"""The command line's job files, and the files that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Shell, job, reply


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
