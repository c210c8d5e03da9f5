"""What a process does not start on, said in one line, on real servers."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from app import serve
from distill.catalog import blobs, keys, projects
from distill.db import unit_of_work
from distill.errors import StartRefused, StorageError
from distill.settings import get_settings
from distill.storage import open_store
from stack import plan
from stack.network import free_port
from tests.support import databases

PROCESSES = {
    "api": plan.api_command("127.0.0.1", free_port()),
    "worker": plan.worker_command(["light"], 1),
    "dispatcher": plan.dispatcher_command(),
    "lm-agent": plan.lm_agent_command("house"),
}
pytestmark = pytest.mark.usefixtures("database", "redis_url")
slow = pytest.mark.slow  # each starts a process; `TestCheck` asks the same of the code that they run


def refusal(command: tuple[str, ...]) -> str:
    """What a process says that ends by itself: one line."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 1, said
    assert len(said.splitlines()) == 1, said
    return said


@contextmanager
def policy(url: str, name: str) -> Iterator[None]:
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", name)
        try:
            yield
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def move_store() -> None:
    """The blob store is now another database's."""
    with unit_of_work() as s:
        blobs.check_store(s, open_store(get_settings()))
        s.execute(text("UPDATE server_meta SET value = 'store_other' WHERE key = 'store_id'"))


class TestCheck:
    @pytest.mark.parametrize(
        ("at", "what_to_do"), [("0001", "run `stillhouse-server migrate`"), ("9999", "start the version that migrated")]
    )
    def test_another_schema(self, at: str, what_to_do: str) -> None:
        with databases.at_revision(at), pytest.raises(StartRefused, match=what_to_do):
            serve.check("127.0.0.1")

    @pytest.mark.parametrize("evicting", ["allkeys-lru", "volatile-ttl"])
    def test_a_redis_that_evicts(self, evicting: str, redis_url: str) -> None:
        with policy(redis_url, evicting), pytest.raises(StartRefused, match=f"maxmemory-policy is {evicting}"):
            serve.check("127.0.0.1")

    def test_a_redis_that_does_not_answer_is_no_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
        databases.forget_settings()
        serve.check("127.0.0.1")

    def test_another_store(self) -> None:
        move_store()
        with pytest.raises(StorageError, match="belongs to the database"):
            serve.check("127.0.0.1")


class TestSchema:
    @pytest.mark.parametrize("process", ["api", *(pytest.param(name, marks=slow) for name in ("worker", "dispatcher", "lm-agent"))])
    def test_an_older_one_names_the_command(self, process: str) -> None:
        with databases.at_revision("0001"):
            said = refusal(PROCESSES[process])
        assert "the database is at revision 0001" in said
        assert "run `stillhouse-server migrate`" in said

    @slow
    @pytest.mark.parametrize("process", PROCESSES)
    def test_a_newer_one_asks_for_the_version_that_made_it(self, process: str) -> None:
        with databases.at_revision("9999"):
            said = refusal(PROCESSES[process])
        assert "does not know: start the version that migrated it" in said

    @slow
    def test_a_newer_one_is_not_migrated(self) -> None:
        with databases.at_revision("9999"):
            assert "does not know" in refusal((sys.executable, "-m", "stack.cli", "migrate"))
            assert "does not know" in refusal((sys.executable, "-m", "stack.prepare"))


class TestRedis:
    @slow
    @pytest.mark.parametrize("process", ["api", "worker", "dispatcher"])
    @pytest.mark.parametrize("evicting", ["allkeys-lru", "volatile-ttl"])
    def test_one_that_evicts_is_refused(self, process: str, evicting: str, redis_url: str) -> None:
        with policy(redis_url, evicting):
            said = refusal(PROCESSES[process])
        assert f"maxmemory-policy is {evicting}" in said
        assert "Set `maxmemory-policy noeviction`" in said

    @slow
    def test_the_whole_stack_ends_with_what_its_part_said(self, redis_url: str, stack_home: Path) -> None:
        command = (sys.executable, "-m", "stack.cli", "up", "--home", str(stack_home), "--port", str(free_port()), "--no-lm-host")
        with policy(redis_url, "allkeys-lru"):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1
        assert "Set `maxmemory-policy noeviction`" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr


class TestBlobStore:
    @slow
    @pytest.mark.parametrize("process", PROCESSES)
    def test_another_servers_is_refused(self, process: str) -> None:
        move_store()
        said = refusal(PROCESSES[process])
        assert "belongs to the database" in said
        assert "set [blobs] in stillhouse.toml, or DATABASE_URL" in said


class TestAddress:
    @slow
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
    def test_other_machines_are_not_let_in_without_a_key(self, host: str) -> None:
        said = refusal(plan.api_command(host, free_port()))
        assert f"other machines may reach {host}" in said
        assert "`stillhouse-server create-key`" in said

    def test_with_a_key_they_are_until_it_is_revoked(self) -> None:
        with unit_of_work() as s:
            project = projects.ensure(s, "support").id
            key, _ = keys.create(s, project, "me")
        serve.check("0.0.0.0")
        with unit_of_work() as s:
            keys.revoke(s, project, key.id)
        with pytest.raises(StartRefused, match="there is no API key"):
            serve.check("0.0.0.0")

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_this_machine_needs_no_key(self, host: str) -> None:
        serve.check(host)


class TestDatabase:
    @slow
    @pytest.mark.parametrize("process", ["api", "worker", "lm-agent"])
    def test_one_that_is_away_is_told_of_in_one_line(self, process: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The dispatcher waits for it instead."""
        monkeypatch.setenv("DATABASE_URL", f"postgresql://stillhouse@127.0.0.1:{free_port()}/postgres")
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "4")
        assert re.search("(does not|cannot) start.*connection failed", refusal(PROCESSES[process]))
