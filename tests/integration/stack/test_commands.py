"""What an operator starts starts here too: `stillhouse-server up` with Ctrl-C, and each of our services in docker-compose.yml alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.binaries import find_valkey
from stack.network import answers, free_port
from stack.processes import descendants, is_running
from tests.support.server_process import ServerProcess, processes_with, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
BUILT = [name for name, service in SERVICES.items() if "build" in service]
ENTRYPOINT = re.findall(r'^ENTRYPOINT \["(.+)"\]$', (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
SECRETS = {"POSTGRES_PASSWORD": "letters", "REDIS_PASSWORD": "digits1", "STILLHOUSE_LMHOST_KEY": "a-key", "VLLM_API_KEY": "another"}
READY_SECONDS = 150.0


def written(text: str) -> str:
    """A value of the compose file as Docker would read it: `${NAME:?…}` and `${NAME:-…}` from the secrets, `$$` is a dollar sign."""
    return re.sub(r"\$\{(\w+):[?-]([^}]*)\}", lambda found: SECRETS.get(found[1], found[2]), text).replace("$$", "$")


class Service:
    """A service's command outside its container: on a port of its own, on the test's servers, in a home of the test's own."""

    def __init__(self, name: str, home: Path, environment: dict[str, str], model: Path) -> None:
        self.name, self.port, self._home = name, free_port(), home
        self._service = SERVICES[name]
        named = {key: written(str(value)) for key, value in self._service["environment"].items()}
        self._environment = {**os.environ, **named, **environment, "STILLHOUSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._model = model
        self._log = home / f"{name}.said"

    def __enter__(self) -> "Service":
        command = [*map(_here, self._service.get("entrypoint", ENTRYPOINT)), *self._adapted(self._service["command"])]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=self._environment, cwd=self._home, stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in {*descendants(self._process.pid), *processes_with("STILLHOUSE_HOME", str(self._home))}:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _adapted(self, command: list[str]) -> list[str]:
        """Another port, the loopback address, and a base model that is there."""
        words = [written(word) for word in command]
        given = {"--port": str(self.port), "--host": "127.0.0.1", "--base": f"local/{self._model.name}"}
        for option, value in given.items():
            if option in words:
                words[words.index(option) + 1] = value
        return words

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """By its own health check where it has one, else by the line that each part writes when it takes work."""
        process = self._process
        wait_until(lambda: self._is_ready() or process.poll() is not None, f"{self.name} is not ready", READY_SECONDS)
        assert process.poll() is None, self.said

    def _is_ready(self) -> bool:
        check = self._service.get("healthcheck")
        if check is None:
            return bool(re.search(r"\bready\b", self.said))
        (url,) = re.findall(r"http://[^']+", check["test"][-1])
        return answers(re.sub(r":\d+/", f":{self.port}/", url))

    def ended(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def terminate(self) -> int:
        """As `docker stop` does: SIGTERM, and no more than the service's grace. Fails when it leaves anybody behind."""
        running = descendants(self._process.pid)
        grace = float(str(self._service.get("stop_grace_period", "10s")).removesuffix("s"))
        self._process.terminate()
        code = self.ended(max(grace, 30.0))  # a loaded machine is slower than a server
        wait_until(lambda: not any(map(is_running, running)), "its processes have ended, which see that it is gone by a closed pipe", grace)
        return code


def _here(word: str) -> str:
    """A program of the image, in this environment."""
    installed = Path(sys.executable).with_name(word)
    return str(installed) if word in ("python", *ENTRYPOINT) else word


@pytest.fixture
def place(database: str, redis_url: str, stack_home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that the compose file sets, pointing at what there is here instead of at other containers."""
    monkeypatch.setenv("STILLHOUSE_MODELS", str(tiny_model.parent))
    monkeypatch.setenv("STILLHOUSE_CONNECTIONS", f'{{"vllm": {{"base_url": "http://127.0.0.1:{free_port()}/v1"}}}}')
    return {"DATABASE_URL": database, "REDIS_URL": redis_url, "STILLHOUSE_LMHOST_URL": f"http://127.0.0.1:{free_port()}/v1"}


class TestCompose:
    @pytest.mark.parametrize("name", [name for name in BUILT if name != "migrate"])
    def test_the_service_starts_and_ends_cleanly(self, name: str, place: dict[str, str], stack_home: Path, tiny_model: Path) -> None:
        names = SERVICES[name]["environment"]
        with Service(name, stack_home, {key: value for key, value in place.items() if key in names}, tiny_model) as service:
            service.wait_ready()
            # uvicorn ends in order and then reports the signal itself, as a shell would expect of it.
            assert service.terminate() in (0, -signal.SIGTERM), service.said
            assert "Traceback" not in service.said

    def test_migrate_ends_by_itself(self, place: dict[str, str], stack_home: Path, tiny_model: Path) -> None:
        with Service("migrate", stack_home, place, tiny_model) as service:
            assert service.ended(READY_SECONDS) == 0, service.said
            assert "The database is at revision" in service.said

    def test_redis_asks_for_the_password_and_never_evicts(self, tmp_path: Path) -> None:
        """The image's `redis-server` is another program of the same options here."""
        import redis

        programs, port = tmp_path / "bin", free_port()
        programs.mkdir()
        (programs / "redis-server").write_text(f'#!/bin/sh\nexec {find_valkey()} "$@" --port {port} --bind 127.0.0.1 --dir {tmp_path}\n')
        (programs / "redis-server").chmod(0o755)
        service = SERVICES["redis"]
        command = [written(word).replace("/tmp/redis.conf", str(tmp_path / "redis.conf")) for word in service["command"]]
        environment = {name: written(value) for name, value in service["environment"].items()}
        process = subprocess.Popen(command, env={**environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"})
        try:
            with redis.Redis(port=port, password=SECRETS["REDIS_PASSWORD"]) as client:
                wait_until(lambda: _pings(client), "redis is not ready")
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
                assert client.config_get("appendonly") == {"appendonly": "yes"}
            with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
        finally:
            process.terminate()
        assert process.wait(60) == 0

    def test_nothing_that_we_build_is_left_out(self) -> None:
        """PostgreSQL's image brings its own start; every other service is started above."""
        assert set(SERVICES) - {*BUILT, "redis"} == {"postgres"}
        assert "command" not in SERVICES["postgres"]


def _pings(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


class TestUp:
    def test_ctrl_c_leaves_no_process(self, stack_home: Path, tiny_model: Path) -> None:
        environment = {"STILLHOUSE_MODELS": str(tiny_model.parent), "STILLHOUSE_LMHOST__BASE_MODEL": f"local/{tiny_model.name}"}
        server = ServerProcess(stack_home / "home", environment)
        try:
            server.start()
            assert answers(f"{server.base_url}/readyz", timeout_seconds=60)
            assert len(server.processes()) > 8
            assert server.interrupt() == 0
        finally:
            server.stop()
        assert "Stopping (SIGINT)" in server.said
        assert re.search(r"Stopped in \d+\.\d s\.", server.said)
        shutil.rmtree(server.home)
