"""`client.bundles`, `stillhouse bundles`, and the document that files make."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.paths import from_paths
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import Answer, Shell, asked, reply, scripted, scripted_async

PATH = "/v1/bundles"
DOCUMENT: dict[str, Any] = {"bundle_version": 1, "python": "3.11", "files": {"support.py": "x = 1\n"}}
STORED: dict[str, Any] = {
    "id": "bundle-1", "object": "bundle", "created_at": 1, "digest": "v1:0", "python": "3.11", "modules": ["support"],
    "packages": {"numpy": "2.3.1"}, "pickles": ["program"], "identity": "0" * 64, "size": 1234,
}  # fmt: skip
REST = [
    ("POST", PATH),
    ("GET", PATH),
    ("GET", f"{PATH}/bundle-1"),
    ("GET", f"{PATH}/bundle-1/content"),
    ("DELETE", f"{PATH}/bundle-1"),
]


def answers() -> list[Answer]:
    return [reply(STORED, 201), reply({"data": [STORED], "has_more": False}), reply(STORED), reply(DOCUMENT), reply({"id": "bundle-1"})]


class TestClients:
    def test_the_client(self) -> None:
        client, script = scripted(*answers())
        made = client.bundles.create(DOCUMENT)
        assert (made.digest, made.modules, made.size) == ("v1:0", ["support"], 1234)
        assert [bundle.id for bundle in client.bundles.list(identity="0" * 64)] == ["bundle-1"]
        assert client.bundles.retrieve("bundle-1").packages == {"numpy": "2.3.1"}
        assert client.bundles.content("bundle-1") == DOCUMENT
        client.bundles.delete("bundle-1")
        assert asked(script) == REST
        assert script.requests[0].headers["idempotency-key"]
        assert script.requests[1].url.params["identity"] == "0" * 64

    def test_the_async_client_asks_the_same(self) -> None:
        client, script = scripted_async(*answers())

        async def ask() -> None:
            async with client:
                await client.bundles.create(DOCUMENT)
                await client.bundles.list(identity="0" * 64)
                await client.bundles.retrieve("bundle-1")
                assert await client.bundles.content("bundle-1") == DOCUMENT
                await client.bundles.delete("bundle-1")

        asyncio.run(ask())
        assert asked(script) == REST


class TestFiles:
    def test_a_package_keeps_its_name_and_a_folder_does_not(self, tmp_path: Path) -> None:
        for name, text in {
            "support/__init__.py": "from support.steps import route\n",
            "support/steps.py": "def route(): ...\n",
            "support/prompts.txt": "Route it.\n",
            "support/.env": "KEY=1\n",
            "support/__pycache__/steps.pyc": "\0",
            "code/metrics.py": "import support\n",
            "alone.py": "",
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        made = from_paths([tmp_path / "support", tmp_path / "code", tmp_path / "alone.py"])
        assert sorted(made["files"]) == ["alone.py", "metrics.py", "support/__init__.py", "support/prompts.txt", "support/steps.py"]
        assert made["files"]["support/prompts.txt"] == "Route it.\n"
        assert (made["bundle_version"], made["python"]) == (1, f"{sys.version_info.major}.{sys.version_info.minor}")
        assert "packages" not in made

    def test_what_the_code_needs_is_told_with_its_version(self, tmp_path: Path) -> None:
        (tmp_path / "support.py").write_text(
            "from __future__ import annotations\n"
            "import json\nimport typing\nfrom typing import TYPE_CHECKING\n"
            "import dspy\nimport not_there\nimport other\n"
            "if TYPE_CHECKING:\n    import yaml\n"
            "if typing.TYPE_CHECKING:\n    import rich\n"
            "else:\n    import httpx\n"
            "def metric():\n    import tqdm.auto\n"
        )
        (tmp_path / "other.py").write_text("from . import nothing\n")
        packages = from_paths([tmp_path / "support.py", tmp_path / "other.py"])["packages"]
        import dspy
        import httpx
        import tqdm

        assert packages == {"dspy": dspy.__version__, "httpx": httpx.__version__, "tqdm": tqdm.__version__}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\xff\xfe", r"support.py: it is no UTF-8 text \(byte 0\)"),
            (b"def metric(:\n", "support.py line 1: invalid syntax"),
            (b"#" * (5 << 20), "support.py: it has 5.2 MB, and a bundle holds 4.2 MB; data goes into a dataset"),
        ],
    )
    def test_what_no_bundle_holds(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "support.py").write_bytes(content)
        with pytest.raises(NotSendable, match=said):
            from_paths([tmp_path / "support.py"])

    def test_more_than_a_bundle_holds_in_all(self, tmp_path: Path) -> None:
        for number in range(2):
            (tmp_path / f"m{number}.txt").write_text("#" * (3 << 20))
        with pytest.raises(NotSendable, match=r"the code is 6.3 MB, and a bundle holds 4.2 MB. The largest parts: m0.txt \(3.1 MB\)"):
            from_paths([tmp_path])

    def test_a_link_that_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "credentials").write_text("mine")
        (tmp_path / "support").mkdir()
        (tmp_path / "support" / "a.py").write_text("")
        (tmp_path / "support" / "b.py").symlink_to(tmp_path / "support" / "a.py")
        assert sorted(from_paths([tmp_path / "support"])["files"]) == ["a.py", "b.py"]
        (tmp_path / "support" / "notes.txt").symlink_to(tmp_path / "credentials")
        with pytest.raises(NotSendable, match=r"notes\.txt is a link to what lies outside of .*support"):
            from_paths([tmp_path / "support"])

    def test_a_key_of_the_callers_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTHER_API_KEY", "sk-not-for-anybody")
        (tmp_path / "support.py").write_text("KEY = 'sk-not-for-anybody'\n")
        with pytest.raises(NotSendable, match=r"^support\.py holds the value of OTHER_API_KEY\. Keys are not sent"):
            from_paths([tmp_path / "support.py"])

    def test_too_many_files_none_and_one_twice(self, tmp_path: Path) -> None:
        with pytest.raises(NotSendable, match="there is no code to send"):
            from_paths([tmp_path])
        (tmp_path / "a.py").write_text("")
        with pytest.raises(NotSendable, match=r"a\.py is there twice"):
            from_paths([tmp_path / "a.py", tmp_path])
        for number in range(500):
            (tmp_path / f"m{number}.py").write_text("")
        with pytest.raises(NotSendable, match="has more than the 500 files that a bundle holds"):
            from_paths([tmp_path])


class TestCommands:
    def test_create(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "support.py").write_text("x = 1\n")
        shell.answers(reply(STORED, 201))
        result = shell.run("bundles", "create", "support.py")
        assert result.output == "bundle-1  Python 3.11; modules support; by value program; needs numpy; 1.2 kB\nsent support.py\n"
        assert shell.sent()["files"] == {"support.py": "x = 1\n"}

    def test_what_cannot_be_sent_is_one_line_and_nothing_is_sent(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "support.py").write_bytes(b"\xff")
        shell.answers(reply(STORED, 201))
        result = shell.run("bundles", "create", "support.py")
        assert result.exit_code == Exit.USAGE
        assert "support.py: it is no UTF-8 text" in result.output
        assert shell.script.requests == []

    @pytest.mark.parametrize(
        ("number", "command", "said"),
        [
            (1, ("list",), "bundle-1  3.11    support  program   numpy"),
            (2, ("get", "bundle-1"), "bundle-1  Python 3.11; modules support"),
            (4, ("delete", "bundle-1"), "bundle-1  deleted\n"),
        ],
    )
    def test_the_other_verbs(self, shell: Shell, number: int, command: tuple[str, ...], said: str) -> None:
        shell.answers(answers()[number])
        assert said in shell.run("bundles", *command).output
        assert asked(shell.script) == [REST[number]]
