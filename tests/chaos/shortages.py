"""What runs out: Valkey's memory, PostgreSQL's connections, the patience of those who are connected to the API. See `faults`."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import redis

from tests.chaos import faults
from tests.chaos.world import World
from tests.support.server_process import wait_until

CLIENTS = 60
_CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'hoard'"""
_LOOK_SECONDS = 0.001
_PAGE_BYTES = 4096


@contextlib.contextmanager
def redis_full(world: World) -> Iterator[None]:
    """While the block runs Valkey refuses whatever needs memory. One that is killed meanwhile comes back without the limit."""
    with world.disrupted("Valkey at maxmemory", faults.AFTER_SECONDS):
        _limit(world, "1")
        try:
            yield
        finally:
            _limit(world, "0")


def _limit(world: World, value: str) -> None:
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(world.stack.layout.redis_url, socket_timeout=10) as client:
        client.config_set("maxmemory", value)


@contextlib.contextmanager
def without_connections(world: World) -> Iterator[int]:
    """While the block runs PostgreSQL has no connection for anybody, those that were open are cut; how many it took."""
    with world.disrupted("PostgreSQL without connections", faults.AFTER_SECONDS), contextlib.ExitStack() as hoard:
        taken = _take_all(world, hoard)
        if taken:
            with contextlib.suppress(psycopg.OperationalError):  # another fault ends all connections or the server, this one too
                taken[0].execute(_CUT)
            taken += _take_all(world, hoard)
        yield len(taken)


def _take_all(world: World, hoard: contextlib.ExitStack) -> list[psycopg.Connection[tuple[object, ...]]]:
    taken = []
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            opened = psycopg.connect(world.dsn, autocommit=True, application_name="hoard", connect_timeout=5)
            hoard.callback(opened.close)
            taken.append(opened)
    return taken


def kill_trainer_at_checkpoint(world: World, seconds: float) -> int | None:
    """Kill the first trainer that is seen to write a checkpoint within so many seconds; the training step of that checkpoint, which stays
    half written."""
    deadline, found = time.monotonic() + seconds, list[psutil.Process]()
    while time.monotonic() < deadline:
        found = [each for each in found if each.is_running()] or faults.without_guards(faults.trainers(world))
        for trainer in found:
            half = _half_written(trainer)
            if half is not None and _killed_before(world, trainer, half):
                return int(half.name.split("-")[1])
        faults.pause(_LOOK_SECONDS if found else 0.1)
    return None


def _half_written(trainer: psutil.Process) -> Path | None:
    with contextlib.suppress(psutil.Error, OSError):
        for folder in trainer.cmdline()[-1:]:  # one that is about to end has no command line
            return next(Path(folder, "checkpoints").glob(".step-*"), None)
    return None


def _killed_before(world: World, trainer: psutil.Process, half: Path) -> bool:
    """Whether it was killed while the folder had not yet its name: it is stopped first, since a signal may come late."""
    with contextlib.suppress(psutil.Error):
        trainer.suspend()
        wait_until(lambda: trainer.status() == psutil.STATUS_STOPPED, "a trainer does not stop")
        if half.is_dir():
            faults.kill_child(world, trainer)
            return True
        trainer.resume()
    return False


@contextlib.contextmanager
def stalled_clients(world: World) -> Iterator[None]:
    """While the block runs many are connected to the API who send half a request, half a body, or read no answer."""
    job = next(iter(world.accepted))
    address = (world.stack.layout.host, world.stack.layout.port)
    key = f"Host: {address[0]}\r\nAuthorization: Bearer {world.keys[0]}\r\n"
    begun = (
        "GET /livez HTTP/1.1\r\n",
        f"POST /v1/datasets HTTP/1.1\r\n{key}Content-Type: application/jsonl\r\nContent-Length: 1000000\r\n\r\n",
        f"GET /v1/compile_jobs/{job}/events HTTP/1.1\r\n{key}Accept: text/event-stream\r\n\r\n",
    )
    with contextlib.ExitStack() as held:
        for number in range(CLIENTS):
            with contextlib.suppress(OSError):  # the API may be away just now
                client = held.enter_context(socket.create_connection(address, 5))
                client.sendall(begun[number % len(begun)].encode())
        yield


@contextlib.contextmanager
def disk_full(world: World) -> Iterator[None]:
    """While the block runs the disk of PostgreSQL's data, which nobody else uses, has no byte left."""
    filler = world.home / "pg" / "filler"
    with world.disrupted("full disk of PostgreSQL", faults.AFTER_SECONDS):
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_PAGE_BYTES))
        try:
            yield
        finally:
            filler.unlink()
