"""What is done to a world: each notes when it may have cut calls off, since that bounds how many may be paid again."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import psycopg
import redis

from distill.storage import FolderStore
from stack.processes import is_running, send
from tests.chaos.world import Disruption, World
from tests.support.scripted_lm import Answer, Fail
from tests.support.server_process import wait_until

AFTER_SECONDS = 2.0
"""What a fault sets off (a lost lease heard of, a relay that lets go) is over so much later, on a loaded machine too."""


def kill(world: World, part: str, number: int = signal.SIGKILL) -> int:
    """Signal one process of the stack, whose watchman starts it again; its pid. SIGTERM asks a worker to drain."""
    pid = world.pid(part)
    with world.disrupted(f"{signal.Signals(number).name} {part}", AFTER_SECONDS, None if part == "postgres" else pid):
        send(pid, number)
        wait_until(lambda: not is_running(pid), f"{part} outlived {signal.Signals(number).name}")
    return pid


def runners(world: World, *workers: str) -> list[psutil.Process]:
    """The live runners of these workers; where none is named, of all that live."""
    return _children(world, "stillhouse_programs.runner", workers)


def trainers(world: World) -> list[psutil.Process]:
    return _children(world, "engines.trainer")


def _children(world: World, module: str, workers: tuple[str, ...] = ()) -> list[psutil.Process]:
    found = []
    for name in workers or world.worker_names:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(world.pid(name)).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found += [child] if module in child.cmdline() else []
    return found


def without_guards(children: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The runners or trainers themselves. A guard says in its command line what it guards."""
    return [child for child in children if not any(word.endswith("guard.py") for word in child.cmdline())]


def kill_child(world: World, child: psutil.Process) -> None:
    with world.disrupted("SIGKILL child", AFTER_SECONDS, worker_of(world, child)), contextlib.suppress(psutil.Error):
        child.kill()


def worker_of(world: World, child: psutil.Process) -> int | None:
    """The pid of the worker that a process came of; None when it has ended meanwhile."""
    workers = {world.pid(name) for name in world.worker_names}
    with contextlib.suppress(psutil.Error):
        return next((parent.pid for parent in child.parents() if parent.pid in workers), None)
    return None


@contextlib.contextmanager
def stalled(world: World, part: str) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end of the block: a machine that stood still."""
    pid = world.pid(part)
    with world.disrupted(f"SIGSTOP {part}", AFTER_SECONDS, None if part == "postgres" else pid):
        send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            send(pid, signal.SIGCONT)


@contextlib.contextmanager
def death_at(world: World, *points: str) -> Iterator[None]:
    """From the begin of the block on, the next process that passes a named point (see `distill.execute.hooks`) dies there, as by `kill -9`;
    at its end each was passed."""
    since, markers = time.time(), [world.markers / point for point in points]
    for marker in markers:
        marker.unlink()
    yield
    for marker in markers:
        wait_until(marker.exists, f"nobody came to {marker.name}")
    world.disruptions.append(Disruption(f"died at {', '.join(points)}", since, time.time() + AFTER_SECONDS))


@contextlib.contextmanager
def damaged(world: World, digest: str, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """While the block runs, a blob has other bytes."""
    place = FolderStore(world.home / "blobs").place(digest)
    whole, mode = place.read_bytes(), place.stat().st_mode
    place.chmod(0o600)
    place.write_bytes(change(whole))
    try:
        yield
    finally:
        place.write_bytes(whole)
        place.chmod(mode)


@contextlib.contextmanager
def dispatchers(world: World, count: int) -> Iterator[list[str]]:
    """While the block runs there are so many, each of which reaps too; their names."""
    crew = world.stack.crew
    assert crew is not None
    more = [f"dispatcher-{number}" for number in range(2, count + 1)]
    crew.wait_ready([crew.start(world.dispatcher(name)) for name in more])
    try:
        yield ["dispatcher", *more]
    finally:
        for name in more:
            crew.stop_part(name)


def restart_postgres(world: World) -> None:
    """`-m immediate`: every backend dies at once, and the log is replayed at the next start."""
    pid = world.pid("postgres")
    with world.disrupted("restart postgres", AFTER_SECONDS):
        send(pid, signal.SIGQUIT)
        wait_until(lambda: not is_running(pid), "postgres outlived SIGQUIT")
        world.query("SELECT 1")


@contextlib.contextmanager
def postgres_hangs(world: World) -> Iterator[None]:
    """While the block runs the server and its backends stand still: connections stay open, and nothing is answered."""
    server = psutil.Process(world.pid("postgres"))
    with world.disrupted("SIGSTOP postgres", AFTER_SECONDS):
        processes = [server, *server.children()]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()


@contextlib.contextmanager
def stopped(world: World, part: str) -> Iterator[None]:
    """While the block runs the part is not there, and is not started again; at its end it is."""
    assert world.stack.crew is not None
    with world.disrupted(f"stop {part}", AFTER_SECONDS):
        world.stack.crew.stop_part(part)
        try:
            yield
        finally:
            world.stack.restart_part(part)


def terminate_backends(world: World) -> None:
    with world.disrupted("terminate backends", AFTER_SECONDS), contextlib.suppress(psycopg.OperationalError), world.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


def flush_redis(world: World) -> int:
    """FLUSHALL; how many keys it took."""
    with redis.Redis.from_url(world.stack.layout.redis_url) as client:
        keys = int(client.dbsize())
        client.flushall()
    return keys


def restart_redis(world: World) -> None:
    kill(world, "valkey")


def cut_redis(world: World) -> None:
    """Every client's connection at once."""
    with redis.Redis.from_url(world.stack.layout.redis_url) as client:
        client.client_kill_filter(_type="normal", skipme=True)


def send_hints(world: World, queue: str, times: int) -> None:
    """The same message several times, as a dispatcher that dies between sending and marking would."""
    rows = "INSERT INTO outbox (queue) SELECT %s FROM generate_series(1, %s) RETURNING pg_notify('stillhouse_outbox', '')"
    world.query(rows, queue, times)


@contextlib.contextmanager
def teacher_trouble(world: World, fail: Fail | None, latency: float = 0.0) -> Iterator[None]:
    """While the block runs, the teacher answers with an error, or late."""
    answer, usual = world.lm.answer, world.lm.latency

    def failing(_ask: object) -> Answer:
        assert fail is not None
        return fail

    world.lm.latency = max(usual, latency)
    world.lm.answer = failing if fail is not None else answer
    try:
        yield
    finally:
        world.lm.answer, world.lm.latency = answer, usual


@contextlib.contextmanager
def teacher_silent(world: World, after: int = 0) -> Iterator[None]:
    """While the block runs no call is answered, but for so many at first; at its end those are that still wait."""
    world.lm.hold_from = world.lm.asked + after
    try:
        yield
    finally:
        world.lm.hold_from = None


def pause(seconds: float) -> None:
    """Between two faults nothing tells us when it is time."""
    threading.Event().wait(seconds)
