"""What is wrong with settings, database, keys and packages is one line with the cure."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import make_url, text

from app import serve
from distill.catalog import projects, webhooks
from distill.db import unit_of_work
from distill.errors import StartRefused
from distill.settings import get_settings
from migrations.runner import upgrade
from stack import machine_checks
from stack.console import Shown
from stack.doctor import examine
from stack.errors import StackError
from stack.machine_checks import require_lm_host
from tests.support import databases

OLDER_SERVER = """
CREATE FUNCTION public.current_setting(name text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE name WHEN 'server_version_num' THEN '150008' WHEN 'server_version' THEN '15.8' ELSE pg_catalog.current_setting(name) END
$$
"""


def stack_cli(*arguments: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "stack.cli", *arguments], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


class TestSettingsFile:
    def test_settings_file_that_is_a_directory_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "stillhouse.toml").mkdir()
        monkeypatch.setenv("STILLHOUSE_CONFIG", str(tmp_path / "stillhouse.toml"))
        get_settings.cache_clear()
        with pytest.raises(StartRefused, match=r"stillhouse\.toml is a directory.*stillhouse\.example\.toml"):
            get_settings()


@pytest.fixture
def older_server(database: str) -> Iterator[None]:
    """A database whose server says that it is PostgreSQL 15."""
    name = make_url(database).database

    def change(*statements: str) -> None:
        with unit_of_work() as s:
            for statement in statements:
                s.execute(text(statement))
        databases.forget_settings()  # new connections, which have the new search path

    change(OLDER_SERVER, f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    yield
    change("DROP FUNCTION public.current_setting(text)", f'ALTER DATABASE "{name}" RESET search_path')


@pytest.mark.usefixtures("older_server")
class TestOlderPostgres:
    def test_migrate_on_postgres_15_is_refused(self) -> None:
        with pytest.raises(StartRefused, match=r"PostgreSQL 15\.8.*16 or newer"):
            upgrade()

    def test_process_on_postgres_15_is_refused(self, redis_url: str) -> None:
        with pytest.raises(StartRefused, match=r"PostgreSQL 15\.8.*16 or newer"):
            serve.check("127.0.0.1")


class TestSealingKey:
    @pytest.fixture(autouse=True)
    def _sealed_under_another_key(self, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with unit_of_work() as s:
            project = projects.ensure(s, "support").id
            self.endpoint = webhooks.add(s, project, "https://example.com/hook", ["alias.moved"], None)[0].id
        monkeypatch.setenv("STILLHOUSE_SEALING_KEY", base64.b64encode(bytes(32)).decode())
        databases.forget_settings()

    def test_doctor_names_secrets_that_no_key_opens(self) -> None:
        finding = dict(examine(get_settings()))["Stored secrets"]
        assert finding.level == "wrong"
        assert finding.detail == f"1 of 1 open under none of the keys: {self.endpoint}"
        assert "STILLHOUSE_SEALING_KEY" in finding.advice

    def test_migrate_and_api_warn_of_them(self, caplog: pytest.LogCaptureFixture) -> None:
        code, said = stack_cli("migrate")
        assert code == 0
        assert f"1 of 1 stored secrets open under none of the keys ({self.endpoint})" in said
        serve.check("127.0.0.1")
        assert f"1 of 1 stored secrets open under none of the keys ({self.endpoint})" in caplog.text


@pytest.mark.usefixtures("database", "redis_url")
class TestDoctor:
    def test_secrets_that_open_are_counted(self) -> None:
        with unit_of_work() as s:
            webhooks.add(s, projects.ensure(s, "support").id, "https://example.com/hook", ["alias.moved"], None)
        assert dict(examine(get_settings()))["Stored secrets"].detail == "1 of 1 open"

    def test_empty_database_is_one_finding(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with databases.cloned(postgres_url, "template0") as empty:
            monkeypatch.setenv("DATABASE_URL", empty)
            databases.forget_settings()
            found = dict(examine(get_settings()))
            databases.forget_settings()
        assert "stillhouse-server migrate" in found["Migrations"].advice
        assert not {"Workers", "Blob store", "Stored secrets"} & set(found)


class TestPackages:
    def test_lm_host_without_torch_is_refused_with_both_cures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine_checks, "find_spec", lambda name: None)
        with pytest.raises(StackError, match=r"torch.*stillhouse-server\[train\].*--no-lm-host"):
            require_lm_host("smollm2-135m-instruct")

    def test_worker_of_queue_train_without_torch_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
        code, said = stack_cli("worker", "--queues", "light,train", "--home", str(tmp_path), PYTHONPATH=str(tmp_path))
        assert code == 1
        assert "torch is not installed" in said
        assert "--queues light" in said
        assert len(said.splitlines()) == 1

    def test_lm_host_process_without_torch_ends_with_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
        command = [sys.executable, "-m", "engines.lmhost", "--base", "smollm2-135m-instruct"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "torch is not installed: install the extra `train` of stillhouse-server\n"


class TestShownOnce:
    def screen(self, ends: str) -> str:
        screen = io.StringIO()
        shown = Shown(Console(file=screen, width=200))
        shown.begin(["api"])
        shown.state("api", "starting")
        shown.line("api", "[error] api cannot start")
        if ends == "ready":
            shown.state("api", "ready", "1.0 s")
        shown.end()
        return screen.getvalue()

    def test_errors_of_a_part_that_does_not_start_are_left_to_the_message(self) -> None:
        assert self.screen("failed") == ""

    def test_errors_of_a_part_that_starts_all_the_same_are_shown(self) -> None:
        assert self.screen("ready") == "api | [error] api cannot start\napi | ready 1.0 s\n"
