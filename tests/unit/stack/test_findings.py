"""What the doctor makes of what it sees: each thing that can be wrong has its advice, and what is well has none."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from distill.sandbox import RUNGS, Choice, Outcome
from distill.settings import ConnectionSettings, RuntimeSettings, Settings, TimerSettings
from stack.findings import Finding, well, worst_of, wrong
from stack.machine_checks import connection, judge_device, judge_disk, judge_sandbox, runtimes, settings_file, timers
from stack.server_checks import judge_broker, judge_clock, judge_postgres, judge_workers
from stack.training_checks import Facts, findings, judge_training

POSTGRES = {
    "server_version": "18.1",
    "server_version_num": "180001",
    "max_connections": "200",
    "fsync": "on",
    "full_page_writes": "on",
    "default_transaction_read_only": "off",
}
REDIS = {"redis_version": "8.2.2", "maxmemory_policy": "noeviction", "maxmemory": 1000, "used_memory": 700}


def assert_told(found: Finding, level: str, detail: str, advice: str) -> None:
    assert (found.level, detail in found.detail, advice in found.advice) == (level, True, True), found


class TestSettingsFile:
    def test_one_that_is_there_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text("")
        assert settings_file(str(tmp_path / "mine.toml")) == well(str(tmp_path / "mine.toml"))

    def test_one_that_is_named_and_not_there_is_told(self, tmp_path: Path) -> None:
        assert_told(settings_file(str(tmp_path / "typo.toml")), "odd", "typo.toml is not there", "mend STILLHOUSE_CONFIG")

    def test_none_is_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert settings_file(None).level == "well"


class TestPostgres:
    def test_one_that_is_well_needs_no_advice(self) -> None:
        assert judge_postgres(POSTGRES) == well("version 18.1")

    @pytest.mark.parametrize(
        ("shown", "level", "detail", "advice"),
        [
            ({"server_version": "15.9", "server_version_num": "150009"}, "wrong", "version 15.9", "upgrade PostgreSQL to 16"),
            ({"default_transaction_read_only": "on"}, "wrong", "read-only", "the primary"),
            ({"max_connections": "40"}, "odd", "max_connections 40", "100 or more"),
            ({"fsync": "off"}, "odd", "fsync off", "set fsync to on"),
            ({"full_page_writes": "off"}, "odd", "full_page_writes off", "set full_page_writes to on"),
        ],
    )
    def test_what_is_not_well(self, shown: dict[str, str], level: str, detail: str, advice: str) -> None:
        assert_told(judge_postgres({**POSTGRES, **shown}), level, detail, advice)


class TestClock:
    def test_a_moment_is_no_skew(self) -> None:
        assert judge_clock(-4.9).level == "well"

    def test_it_says_which_way(self) -> None:
        assert_told(judge_clock(61), "odd", "61 s ahead of this machine", "NTP")
        assert_told(judge_clock(-61), "odd", "61 s behind this machine", "NTP")


class TestRedis:
    def judge(self, *, is_open: bool = False, is_near: bool = False, **facts: Any) -> Finding:
        return judge_broker({**REDIS, **facts}, is_open=is_open, is_near=is_near)

    def test_one_that_is_well_needs_no_advice(self) -> None:
        assert self.judge() == well("Redis 8.2.2, maxmemory-policy noeviction")

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl"])
    def test_one_that_evicts(self, policy: str) -> None:
        assert_told(self.judge(maxmemory_policy=policy), "wrong", f"maxmemory-policy {policy}", "set `maxmemory-policy noeviction`")

    def test_one_that_does_not_tell(self) -> None:
        assert_told(self.judge(maxmemory_policy=None), "odd", "maxmemory-policy unknown", "noeviction")

    def test_one_that_fills_up(self) -> None:
        assert_told(self.judge(used_memory=701), "odd", "memory 70% full", "maxmemory")

    def test_one_without_a_password(self) -> None:
        assert_told(self.judge(is_open=True), "wrong", "no password", "set requirepass")
        assert_told(self.judge(is_open=True, is_near=True), "odd", "no password", "set requirepass")

    @pytest.mark.parametrize(
        ("kind", "version", "level"),
        [
            ("redis", "6.2.19", "odd"),
            ("redis", "7.0.15", "odd"),
            ("redis", "7.2.11", "well"),
            ("redis", "8.0.3", "odd"),
            ("redis", "8.4.0", "well"),
            ("valkey", "8.0.5", "odd"),
            ("valkey", "8.1.4", "well"),
            ("valkey", "9.1.2", "well"),
        ],
    )
    def test_one_that_a_script_can_take_over(self, kind: str, version: str, level: str) -> None:
        found = judge_broker({**REDIS, f"{kind}_version": version}, is_open=False, is_near=False)
        assert found.level == level
        assert ("CVE-2025-49844" in found.advice) == (level == "odd")


class TestWorkers:
    def test_a_queue_that_nobody_listens_to_is_named(self) -> None:
        assert judge_workers({"light": 1, "rollouts": 2, "train": 1}) == well("1 for light, 2 for rollouts, 1 for train")
        assert_told(judge_workers({"light": 1}), "odd", "0 for train", "stillhouse-server worker --queues rollouts,train")


class TestMachine:
    def test_a_full_disk_is_named(self) -> None:
        found = judge_disk([(Path("/srv/blobs"), 1.9), (Path("/srv/home"), 50)])
        assert_told(found, "wrong", "1.9 GB free for /srv/blobs", "make room")
        assert judge_disk([(Path("/srv/home"), 50)]) == well("50.0 GB free for /srv/home")

    def test_timers_that_do_not_fit_together(self) -> None:
        assert timers(TimerSettings()) == well("a beat each 10 s, a lease of 120 s")
        assert_told(timers(TimerSettings(lease_seconds=30)), "wrong", "a lease of 30 s", "lease_seconds to 40 or more")

    def test_a_card_that_torch_cannot_use(self) -> None:
        assert_told(judge_device("cpu", has_card=True), "odd", "cpu", "install a torch build")
        assert judge_device("cpu", has_card=False) == well("cpu")

    def test_where_a_model_is_trained_and_whether_it_fits_beside_its_host(self) -> None:
        gib = 2**30
        small, large = Facts(134_000_000, 5 * gib, "cpu", 8 * gib, 16 * gib), Facts(4_000_000_000, 50 * gib, "cuda", 8 * gib, 80 * gib)
        assert judge_training("tiny", small, "auto").level == "well"
        assert_told(judge_training("big", replace(large, device="cpu"), "auto"), "odd", "big (4.0 billion", "TORCH_BACKEND")
        assert "the host sleeps" in judge_training("big", large, "auto").detail
        assert_told(judge_training("big", large, "share"), "odd", "needs up to 50.0 GiB on cuda", "on_train")
        assert "both run at once" in judge_training("big", replace(large, free=51 * gib), "auto").detail
        assert "the host sleeps" in judge_training("big", replace(large, free=51 * gib), "pause").detail
        assert_told(judge_training("big", replace(large, total=24 * gib), "auto"), "odd", "there are 24.0 GiB", "larger device")

    def test_a_base_model_that_the_trainer_has_not(self) -> None:
        settings = Settings(
            connections={"vllm": ConnectionSettings(base_url="http://vllm:8000/v1", models=["no-such/model"], trainer="local")}
        )
        ((name, found),) = findings(settings)
        assert name == "Training for vllm"
        assert_told(found, "wrong", "no-such/model cannot be loaded here", "HF_HOME")

    def test_an_interpreter_that_cannot_run_programs(self) -> None:
        settings = Settings(runtimes={"default": RuntimeSettings(python=Path("/nowhere/python"))})
        ((name, found),) = runtimes(settings)
        assert name == "Runtime default"
        assert_told(found, "wrong", "/nowhere/python cannot run programs", "[runtimes]")

    def test_a_sandbox_that_holds_is_named_with_those_that_do_not(self) -> None:
        landlock = next(rung for rung in RUNGS if rung.name == "landlock")
        outcomes = (Outcome("bubblewrap", reason="bwrap is not installed"), Outcome("landlock"))
        assert judge_sandbox(Choice(landlock, outcomes), ["acme"]) == well(
            "landlock holds; bubblewrap does not start: bwrap is not installed"
        )

    def test_without_a_sandbox_the_code_that_is_refused_is_named(self) -> None:
        none = Choice(None, (Outcome("bubblewrap", got_out=("udp", "signal")),))
        assert_told(judge_sandbox(none, ["acme.programs"]), "wrong", "programs of acme.programs are refused", "install bubblewrap")
        assert_told(judge_sandbox(none, []), "odd", "bubblewrap does not hold: udp, signal", "install bubblewrap")

    def test_a_sandbox_that_is_switched_off_can_be_switched_on(self) -> None:
        assert_told(judge_sandbox(Choice(None), ["acme"]), "wrong", '[sandbox] rung is "none"', 'set [sandbox] rung to "auto"')

    def test_a_host_that_is_not_there(self) -> None:
        found = connection(ConnectionSettings(base_url="http://127.0.0.1:9/v1"))
        assert_told(found, "wrong", "http://127.0.0.1:9/v1/models is not reached", "start it, or mend base_url")


def test_several_looks_at_one_thing_are_as_bad_as_the_worst() -> None:
    both = worst_of([well("version 1"), wrong("memory full", "give it more")])
    assert both == wrong("version 1, memory full", "give it more")


class _Host(BaseHTTPRequestHandler):
    """Answers its list of models, sends `/moved` on to another host, and keeps what it was sent."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["authorization"]))
        self.send_response({"/v1/models": 200, "/moved/models": 302}.get(self.path, 404))
        self.send_header("location", f"http://localhost:{self.headers['host'].rpartition(':')[2]}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _Host.seen.clear()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class TestConnection:
    @pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
    def test_is_asked_where_the_relay_asks_it(self, host: str, path: str) -> None:
        assert connection(ConnectionSettings(base_url=host + path)).level == "well"
        assert _Host.seen == [("/v1/models", None)]

    def test_its_key_follows_no_redirect(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME_LM_KEY", "sk-of-this-host-alone")
        found = connection(ConnectionSettings(base_url=f"{host}/moved", api_key_env="SOME_LM_KEY"))
        assert (found.level, "answers 302" in found.detail) == ("wrong", True)
        assert _Host.seen == [("/moved/models", "Bearer sk-of-this-host-alone")]

    def test_what_is_no_address_or_no_http_is_a_finding(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer() -> None:
                with listener.accept()[0] as asked:
                    asked.recv(4096)
                    asked.sendall(b"SSH-2.0-something\r\n\r\n")

            threading.Thread(target=answer, daemon=True).start()
            for base_url in (f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "localhost:8000/v1"):
                assert connection(ConnectionSettings(base_url=base_url)).level == "wrong"
