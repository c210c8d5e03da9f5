"""Where address and key come from."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from stillhouse import ConfigError, Stillhouse
from stillhouse._extras import extra


def store(home: Path, url: str = "http://127.0.0.1:8400", key: str = "sh_file_key") -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "credentials.json").write_text(json.dumps({"base_url": url, "api_key": key, "project": "default"}))


class TestCredentials:
    def test_arguments_win_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", "http://env")
        monkeypatch.setenv("STILLHOUSE_API_KEY", "sh_env_key")
        client = Stillhouse("http://arg/", "sh_arg_key")
        assert (client.base_url, client.api_key) == ("http://arg", "sh_arg_key")
        assert Stillhouse().base_url == "http://env"

    def test_the_home_named_by_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        store(tmp_path / "home", "http://127.0.0.1:9999")
        store(tmp_path / ".stillhouse", key="sh_other_key")
        monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
        client = Stillhouse()
        assert (client.base_url, client.api_key) == ("http://127.0.0.1:9999", "sh_file_key")

    def test_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STILLHOUSE_HOME", raising=False)
        store(tmp_path / ".stillhouse")
        assert Stillhouse().api_key == "sh_file_key"

    def test_a_stored_key_never_goes_to_another_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store(tmp_path / ".stillhouse")
        monkeypatch.delenv("STILLHOUSE_HOME", raising=False)
        with pytest.raises(ConfigError):
            Stillhouse("http://elsewhere")

    def test_an_address_without_its_scheme_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"server\.test:8400 is no address: it begins with http:// or https://"):
            Stillhouse("server.test:8400", "sh_a_b")

    def test_nothing_found_says_what_to_do(self) -> None:
        with pytest.raises(ConfigError, match="STILLHOUSE_API_KEY"):
            Stillhouse()


class TestImport:
    def test_is_light(self) -> None:
        heavy = "{'dspy', 'torch', 'typer', 'yaml', 'tqdm', 'stillhouse_programs'}"
        code = f"import sys, stillhouse; found = {heavy} & set(sys.modules); sys.exit(', '.join(found) or 0)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_the_bare_package_works_and_names_the_extra_that_something_needs(self) -> None:
        done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"typer is not installed: {CLI}\n")
        assert done.stdout.splitlines() == [
            "support",
            f"dspy is not installed: {DSPY}",
            f"stillhouse_programs is not installed: {DSPY}",
            f"dspy is not installed: {DSPY}",
            f"dspy is not installed: {DSPY}",
            f"tqdm is not installed: {CLI}",
        ]
        for command in (DSPY, CLI):
            for package in shlex.split(command)[2:]:
                folder, _, extra = package.removesuffix("]").partition("[")
                assert extra in tomllib.loads((Path(folder) / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def test_where_nobody_knows_the_clone_its_folders_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata.Distribution, "from_name", lambda _: SimpleNamespace(read_text=lambda _: None))
        with pytest.raises(ImportError) as raised, extra("dspy"):
            raise ModuleNotFoundError("", name="stillhouse_programs")
        told = "stillhouse_programs is not installed: in a clone of Stillhouse, pip install './client[dspy]' './programs[dspy]'"
        assert str(raised.value) == told


URL = json.loads(metadata.distribution("stillhouse").read_text("direct_url.json") or "{}")["url"]
CLONE = Path(unquote(URL.removeprefix("file://"))).parent
DSPY, CLI = f"pip install '{CLONE}/client[dspy]' '{CLONE}/programs[dspy]'", f"pip install '{CLONE}/client[cli]'"
BARE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"dspy", "stillhouse_programs", "typer", "rich", "yaml", "tqdm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
import httpx, stillhouse
answer = httpx.MockTransport(lambda request: httpx.Response(200, json={"project": "support", "key_id": "key-1", "scopes": []}))
client = stillhouse.Stillhouse("http://server", "sh_a_b", transport=answer)
print(client.me().project)
sys.stderr.isatty = lambda: True  # in a log an upload has no bar
for needs_more in (
    lambda: stillhouse.load("art-1", client=client),
    lambda: stillhouse.derive(None, {}),
    lambda: stillhouse.LM("house/tiny"),
    lambda: stillhouse.BootstrapFinetune,
    lambda: client.files.create(sys.executable, progress=True),
):
    try:
        needs_more()
    except ImportError as error:
        print(error)
from stillhouse.cli import main
main()
"""
