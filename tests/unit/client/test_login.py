"""`stillhouse login` and `logout`: what is stored where, and who wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from stillhouse import ConfigError, Stillhouse, UnexpectedReply
from stillhouse._config import Credentials, forget, login_file, look_up, store
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.unit.client.conftest import scripted
from tests.unit.client.test_config import store as store_in_home

TEAM = Credentials("https://team", "sh_team_key")


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class TestStored:
    def test_only_for_this_user_where_the_client_looks(self) -> None:
        path = store(TEAM)
        assert path == login_file()
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert look_up() == ("https://team", "sh_team_key")
        assert [one.name for one in path.parent.iterdir()] == ["credentials.json"]

    def test_a_server_of_this_folder_is_meant_before_it(self, tmp_path: Path) -> None:
        store(TEAM)
        store_in_home(tmp_path / ".stillhouse", key="sh_local_key")
        assert look_up() == ("http://127.0.0.1:8400", "sh_local_key")
        assert look_up("https://team") == ("https://team", "sh_team_key")

    def test_is_forgotten(self) -> None:
        store(TEAM)
        assert (forget(), forget()) == (True, False)
        with pytest.raises(ConfigError, match="stillhouse login"):
            Stillhouse("https://team")

    def test_what_cannot_be_read_is_named(self) -> None:
        store(TEAM).write_text("{")
        with pytest.raises(ConfigError, match="cannot be read"):
            Stillhouse()


class TestCommand:
    @pytest.mark.parametrize(("url", "typed"), [("team.example", "sh_a_b\n"), ("https://team", "\n")])
    def test_what_is_no_address_or_key_is_usage(self, url: str, typed: str) -> None:
        assert CliRunner().invoke(app, ["login", url], input=typed).exit_code == Exit.USAGE
        assert not login_file().exists()

    def test_out_says_whether_there_was_a_login(self) -> None:
        store(TEAM)
        shell = CliRunner()
        said = [json.loads(shell.invoke(app, ["logout", "--json"]).stdout)["logged_out"] for _ in range(2)]
        assert said == [True, False]


@pytest.mark.parametrize(
    "answer",
    [lambda: httpx.Response(200, text="<html>Welcome</html>"), lambda: httpx.Response(200, json={"hello": 1}), lambda: httpx.Response(200)],
    ids=["a page", "another service", "nothing"],
)
def test_what_is_no_stillhouse_server_is_told(answer: Callable[[], httpx.Response]) -> None:
    client, _ = scripted(answer())
    with pytest.raises(UnexpectedReply, match="http://server/v1/me did not answer as a Stillhouse server"):
        client.me()
