"""Restart policy, environments, readiness, leftover detection: the small decisions of the supervisor."""

import io
import json
import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from distill.settings import TimerSettings
from stack.child import LogFile, ending
from stack.console import Shown
from stack.errors import PortTaken, StackError
from stack.home import HomeLock, leftovers, open_home, read_state, remember_processes, write_private, write_state
from stack.network import free_port, require_free
from stack.parts import is_root
from stack.plan import Layout, part_environment, standard_parts, without_secrets, worker_command
from stack.postgres import EmbeddedPostgres
from stack.servers import plan_servers
from stack.watch import Patience


def layout(home: Path, lm_port: int | None = 9001) -> Layout:
    return Layout(home=home, port=8400, database_url="postgresql://db", redis_url="redis://broker", lm_port=lm_port, lm_key="secret")


class TestPatience:
    def test_delays_double_and_end(self) -> None:
        patience = Patience(limit=4, quick_seconds=10, first_delay_seconds=1)
        assert [patience.died_after(1) for _ in range(4)] == [1, 2, 4, None]

    def test_a_long_life_wipes_the_record(self) -> None:
        patience = Patience(limit=3, quick_seconds=10, first_delay_seconds=1)
        assert [patience.died_after(seconds) for seconds in (1, 60, 1, 60, 1, 1)] == [1, 1, 2, 1, 2, None]


class TestPlan:
    def test_a_whole_stack(self, tmp_path: Path) -> None:
        names = [part.name for part in standard_parts(layout(tmp_path))]
        assert names == ["lm-host", "lm-agent", "dispatcher", "worker-light", "worker-rollouts", "worker-train", "api"]

    def test_without_an_lm_host_there_is_no_agent_and_no_house_connection(self, tmp_path: Path) -> None:
        parts = standard_parts(layout(tmp_path, lm_port=None))
        assert [part.name for part in parts] == ["dispatcher", "worker-light", "worker-rollouts", "worker-train", "api"]
        assert not [part.name for part in parts if "STILLHOUSE_LMHOST_URL" in part.environment]

    def test_the_lm_host_gets_no_secret_of_the_server(self, tmp_path: Path) -> None:
        host = standard_parts(layout(tmp_path))[0]
        assert set(host.environment) == {"LMHOST_API_KEY"}

    def test_the_lm_host_sends_spans_to_the_collector_of_the_settings(self, tmp_path: Path) -> None:
        host = standard_parts(replace(layout(tmp_path), tracing_endpoint="http://collector:4318/"))[0]
        assert host.environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://collector:4318/v1/traces"

    def test_secrets_are_withheld_from_the_common_environment(self) -> None:
        given = {"DATABASE_URL": "x", "REDIS_URL": "x", "PGPASSWORD": "x", "STILLHOUSE_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        given["PATH"] = "/bin"
        assert without_secrets(given) == {"PATH": "/bin"}

    def test_paths_are_absolute_and_only_installed_packages_are_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = part_environment(tmp_path / "home", {"STILLHOUSE_CONFIG": "mine.toml"})
        assert found["STILLHOUSE_CONFIG"] == str(tmp_path / "mine.toml")
        assert found["PYTHONSAFEPATH"] == "1"

    def test_the_api_listens_on_the_address_of_the_settings_and_is_reached_on_this_machine(self, tmp_path: Path) -> None:
        open_to_all = replace(layout(tmp_path), host="0.0.0.0")
        api = standard_parts(open_to_all)[-1]
        assert "--host 0.0.0.0" in " ".join(api.command)
        assert open_to_all.base_url == api.environment["STILLHOUSE_BASE_URL"] == "http://127.0.0.1:8400"
        assert replace(layout(tmp_path), host="::1").base_url == "http://[::1]:8400"
        assert replace(layout(tmp_path), host="192.0.2.7").base_url == "http://192.0.2.7:8400"

    def test_an_address_of_another_machine_is_told_apart_from_a_taken_port(self) -> None:
        with pytest.raises(StackError, match=r"no address 192\.0\.2\.7"):
            require_free("192.0.2.7", free_port())
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken):
            require_free("127.0.0.1", taken.getsockname()[1])

    def test_a_worker_gets_longer_than_it_takes_to_drain(self, tmp_path: Path) -> None:
        parts = standard_parts(replace(layout(tmp_path), drain_seconds=400.0))
        assert {part.grace_seconds for part in parts if part.name.startswith("worker-")} == {410.0}
        assert layout(tmp_path).drain_seconds == TimerSettings().drain_seconds

    def test_workers_use_threads_and_the_queues_given(self) -> None:
        command = " ".join(worker_command(["light", "train"], 3))
        assert "-A workers.celery_app worker -Q light,train --pool threads -c 3" in command
        assert "--without-gossip --without-mingle" in command


class TestHome:
    def test_others_may_pass_through_but_not_look(self, tmp_path: Path) -> None:
        home = open_home(tmp_path / "deep" / "home")
        assert stat.S_IMODE(home.stat().st_mode) == 0o711

    def test_private_files_are_replaced_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        write_private(file, "one")
        write_private(file, "two")
        assert file.read_text() == "two"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]

    def test_damaged_state_reads_as_none(self, tmp_path: Path) -> None:
        (tmp_path / "state.json").write_text('{"password": "x')
        assert read_state(tmp_path) == {}

    def test_a_number_that_now_belongs_to_another_process_is_no_leftover(self, tmp_path: Path) -> None:
        remember_processes(tmp_path, [os.getpid()])
        assert leftovers(tmp_path) == [os.getpid()]
        write_state(tmp_path, {"processes": {str(os.getpid()): "1"}})
        assert leftovers(tmp_path) == []

    def test_a_free_lock_has_no_holder_whatever_it_says(self, tmp_path: Path) -> None:
        (tmp_path / "lock").write_text(json.dumps({"pid": os.getpid(), "url": "http://old"}))
        lock = HomeLock(tmp_path)
        assert lock.running_pid() is None
        lock.release()


class TestServers:
    def test_servers_of_the_operator_are_taken_as_they_are(self, tmp_path: Path) -> None:
        servers = plan_servers(tmp_path, {"DATABASE_URL": "postgresql://db/x", "REDIS_URL": "redis://broker"})
        assert (servers.database_url, servers.redis_url, servers.parts) == ("postgresql://db/x", "redis://broker", ())

    def test_one_of_the_two_may_be_the_operators(self, tmp_path: Path) -> None:
        servers = plan_servers(tmp_path, {"DATABASE_URL": "postgresql://db/x"})
        assert [part.name for part in servers.parts] == ["valkey"]

    def test_the_password_is_in_no_argument_list(self, tmp_path: Path) -> None:
        servers = plan_servers(tmp_path, {"DATABASE_URL": "postgresql://db/x"})
        password = read_state(tmp_path)["password"]
        assert not [part.name for part in servers.parts if any(password in word for word in part.command)]

    def test_an_unfinished_data_folder_is_made_anew(self, stack_home: Path) -> None:
        home = open_home(stack_home)
        server = EmbeddedPostgres(home, "word", fast=True)
        folder = server.installation.data
        folder.mkdir(parents=True)
        (folder / "half").write_text("initdb was killed here")
        server.prepare(first_start=True)
        assert (folder / "global" / "pg_control").exists()
        assert not (folder / "half").exists()
        assert (folder.stat().st_uid == os.geteuid()) is not is_root()


class TestLog:
    def test_a_long_log_is_put_aside_once(self, tmp_path: Path) -> None:
        log = LogFile(tmp_path, "api", limit_bytes=100)
        for number in range(30):
            log.write(f"line {number:02}\n")
        log.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1"]
        assert (tmp_path / "api.log").read_text().endswith("line 29\n")

    def test_endings_in_words(self) -> None:
        assert (ending(3), ending(-9)) == ("exit code 3", "SIGKILL")


class TestShown:
    def show(self, *lines: str, verbose: bool = False) -> str:
        screen = io.StringIO()
        shown = Shown(Console(file=screen, width=200), verbose=verbose)
        shown.begin(["api"])
        for line in lines:
            shown.line("api", line)
        return screen.getvalue()

    def test_only_problems_pass_with_the_lines_that_belong_to_them(self) -> None:
        text = self.show("INFO started", "Traceback (most recent call last):", '  File "x.py"', "INFO goes on", "  indented")
        assert text == 'api | Traceback (most recent call last):\napi |   File "x.py"\n'

    def test_unpacking_a_base_model_is_shown(self) -> None:
        line = "2026-01-01 INFO engines.base_models Unpacking the base model m.gguf, once on this machine: about half a minute"
        assert self.show("INFO started", line) == f"api | {line}\n"

    def test_what_is_true_of_most_machines_is_left_to_the_log_files(self) -> None:
        root = "[warning  ] platforms.py:893: SecurityWarning: You're running the worker with superuser privileges: this is"
        assert self.show("# WARNING Memory overcommit must be enabled!", root, "absolutely not recommended!") == ""

    def test_square_brackets_in_a_message_are_kept(self) -> None:
        screen = io.StringIO()
        Shown(Console(file=screen, width=200)).say("set [blobs] in stillhouse.toml")
        assert screen.getvalue() == "set [blobs] in stillhouse.toml\n"

    def test_verbose_passes_everything(self) -> None:
        assert self.show("INFO started", verbose=True) == "api | INFO started\n"

    def test_text_of_others_is_never_markup(self) -> None:
        assert "[bold]error[/nonsense]" in self.show("[bold]error[/nonsense]")


@pytest.mark.parametrize("module", ["stack.supervisor", "stack.reaper"])
def test_the_supervisor_imports_no_server_code(module: str) -> None:
    script = f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] in ('app', 'distill', 'torch')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
