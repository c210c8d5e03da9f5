"""Settings of Celery, Redis, PostgreSQL and uvicorn that faults taught: the live objects carry them (decision 0026)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from uvicorn import Config

from app.serve import OPTIONS
from distill.db import Door, engine
from distill.queue import make_app
from stack import plan
from stack.plan import Layout
from stack.postgres import EmbeddedPostgres
from stack.valkey import EmbeddedValkey
from tests.support.server_process import wait_until

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker-")]

CELERY: dict[str, Any] = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": False,
    "task_time_limit": None,
    "task_soft_time_limit": None,
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "worker_pool": "threads",
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 0,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "beat_schedule": {},
}
TRANSPORT = {
    "visibility_timeout": 300,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "global_keyprefix": "sh:",
}
VALKEY = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": "",
    "bind": "127.0.0.1",
}
SESSIONS: dict[Door, dict[str, str]] = {
    "api": {"statement_timeout": "5s", "lock_timeout": "2s", "idle_in_transaction_session_timeout": "15s"},
    "worker": {"statement_timeout": "1min", "lock_timeout": "30s", "idle_in_transaction_session_timeout": "1min"},
}
CONNECTION = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "20000"}
POOL_SECONDS: dict[Door, float] = {"api": 2, "worker": 30}
UVICORN = {"timeout_graceful_shutdown": 5, "timeout_keep_alive": 20, "limit_concurrency": 800, "server_header": False}


class TestCelery:
    @pytest.mark.parametrize("name", CELERY)
    def test_setting(self, name: str) -> None:
        assert make_app().conf[name] == CELERY[name]

    @pytest.mark.parametrize("name", TRANSPORT)
    def test_transport(self, name: str) -> None:
        assert make_app().conf.broker_transport_options[name] == TRANSPORT[name]

    def test_only_the_known_queues_exist(self) -> None:
        conf = make_app().conf
        assert [queue.name for queue in conf.task_queues] == list(plan.QUEUES)
        assert conf.task_create_missing_queues is False

    def test_workers_do_not_talk_with_each_other(self) -> None:
        assert {"--without-gossip", "--without-mingle"} <= set(plan.worker_command(["light"], 1))

    def test_one_training_a_worker(self, tmp_path: Path) -> None:
        parts = plan.standard_parts(Layout(tmp_path, 1, "postgresql://db", "redis://broker"))
        (train,) = [part.command for part in parts if part.name == "worker-train"]
        assert train[train.index("-c") + 1] == "1"
        assert SERVICES["worker-train"]["command"][-2:] == ["--threads", "1"]


class TestRedis:
    @pytest.fixture
    def client(self, tmp_path: Path) -> Iterator[redis.Redis]:
        """The embedded server as an operator gets it."""
        server = EmbeddedValkey(tmp_path, "secret")
        server.prepare()
        process = subprocess.Popen(server.part().command)
        try:
            with redis.Redis.from_url(server.url) as client:
                wait_until(lambda: _pings(client), "valkey is not ready")
                yield client
        finally:
            process.kill()
            process.wait()

    def test_the_embedded_one(self, client: redis.Redis) -> None:
        assert {name: client.config_get(name)[name] for name in VALKEY} == VALKEY
        with redis.Redis(port=client.get_connection_kwargs()["port"]) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()

    @pytest.mark.parametrize("line", ["appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "requirepass %s"])
    def test_the_containers(self, line: str) -> None:
        assert line in SERVICES["redis"]["command"][-1]


class TestPostgres:
    @pytest.mark.parametrize("door", ["api", "worker"])
    def test_what_a_session_is_given(self, door: Door, database: str) -> None:
        with engine(door).connect() as connection:
            wanted = {**SESSIONS[door], "synchronous_commit": "on", "TimeZone": "UTC"}
            assert {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted} == wanted
            given = connection.connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
            assert {name: given[name] for name in CONNECTION} == CONNECTION
            assert given["connect_timeout"] == {"api": "3", "worker": "10"}[door]
            assert given["application_name"].startswith(f"stillhouse-{door}-")

    @pytest.mark.parametrize("door", ["api", "worker"])
    def test_an_error_which_goes_to_the_log_holds_no_value_of_a_user(self, door: Door, database: str) -> None:
        with engine(door).connect() as connection, pytest.raises(SQLAlchemyError) as caught:
            connection.execute(text("SELECT CAST(:prompt AS text) FROM nowhere"), {"prompt": "what a patient wrote"})
        assert "nowhere" in str(caught.value)
        assert "patient" not in str(caught.value)

    @pytest.mark.parametrize("door", ["api", "worker"])
    def test_how_long_a_free_connection_is_waited_for(self, door: Door, database: str) -> None:
        assert engine(door).pool.timeout() == POOL_SECONDS[door]  # type: ignore[attr-defined]

    def test_a_connection_that_broke_is_noticed_before_a_statement_is_lost(self, database: str) -> None:
        with engine("api").connect() as connection:
            number = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with engine("worker").connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})
        with engine("api").connect() as again:  # the pool hands out the connection that was given back last
            assert again.execute(text("SELECT pg_backend_pid()")).scalar_one() != number

    def test_the_embedded_one_keeps_what_it_said_it_kept(self, stack_home: Path) -> None:
        command = EmbeddedPostgres(stack_home, "secret").part().command
        options = dict(word.split("=", 1) for word in command if "=" in word)
        assert (options["listen_addresses"], options["max_connections"]) == ("127.0.0.1", "200")
        assert not {"fsync", "synchronous_commit", "full_page_writes"} & set(options)  # PostgreSQL's own defaults: on


class TestUvicorn:
    @pytest.mark.parametrize("name", UVICORN)
    def test_option(self, name: str) -> None:
        assert getattr(Config("app.main:create_app", **OPTIONS), name) == UVICORN[name]

    def test_a_proxy_elsewhere_is_believed_once_the_environment_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.7")
        config = Config("app.main:create_app", **OPTIONS)
        assert (config.proxy_headers, config.forwarded_allow_ips) == (True, "10.0.0.7")


class TestContainers:
    @pytest.mark.parametrize("name", WORKERS)
    def test_a_worker_has_longer_than_it_takes_to_drain(self, name: str) -> None:
        assert SERVICES[name]["stop_grace_period"] == "150s"

    @pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
    def test_what_ends_is_started_again(self, name: str) -> None:
        assert SERVICES[name]["restart"] == "unless-stopped"

    @pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
    def test_the_dead_are_reaped(self, name: str) -> None:
        assert SERVICES[name]["init"] is True


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
