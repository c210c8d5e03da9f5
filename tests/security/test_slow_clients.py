"""Clients that are slow on purpose, on real connections: each loses its own, and nobody else waits for it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest
import uvicorn

from app import middleware, slow_clients
from app.main import create_app
from app.serve import OPTIONS
from distill.settings import get_settings
from tests.integration.api.conftest import Tokens, job_body
from tests.support.server_process import wait_until

PATIENCE_SECONDS = 30.0
"""With a server on a loaded machine; what is never cut off fails the test."""
STREAMS = 500
REPLIES = 40


@pytest.fixture
def served(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server with the options of the real one, whose patience is short."""
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(slow_clients, "UNREAD_SECONDS", 1.0)
    monkeypatch.setattr(middleware, "BODY_GRACE_SECONDS", 1.0)
    monkeypatch.setenv("STILLHOUSE_LIMITS__EVENT_STREAMS", str(STREAMS))
    get_settings.cache_clear()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        server = uvicorn.Server(uvicorn.Config(create_app(), **OPTIONS))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, "the server starts")
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def connected(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
    found.settimeout(PATIENCE_SECONDS)
    return found


def read_to_its_end(client: socket.socket) -> bytes:
    """Raises TimeoutError for a connection that stays open."""
    found = b""
    try:
        while part := client.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def drip(client: socket.socket, ended: threading.Event) -> None:
    """A byte now and then, for as long as somebody takes it."""
    try:
        while not ended.wait(0.1):
            client.sendall(b"a")
    except OSError:
        pass


@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_a_head_that_never_ends_costs_its_connection(served: int, before: bytes) -> None:
    """At once, in the middle of one, and after an answered request; strangers need no key for it."""
    ended = threading.Event()
    with connected(served) as client, ThreadPoolExecutor(1) as pool:
        client.sendall(before)
        dripping = pool.submit(drip, client, ended)
        try:
            found = read_to_its_end(client)
        finally:
            ended.set()
        dripping.result()
    assert found.startswith(b"HTTP/1.1 200") == before.endswith(b"\r\n\r\n")


def test_a_body_that_nobody_reads_does_not_hold_a_connection(served: int) -> None:
    """Its request is refused before: it has no key."""
    ended = threading.Event()
    with connected(served) as client, ThreadPoolExecutor(1) as pool:
        client.sendall(b"POST /v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n")
        dripping = pool.submit(drip, client, ended)
        try:
            assert read_to_its_end(client).startswith(b"HTTP/1.1 401")
        finally:
            ended.set()
        dripping.result()


@pytest.mark.parametrize("rate", ["nothing more", "a byte now and then"])
def test_an_upload_that_stalls_is_408(served: int, tokens: Tokens, rate: str) -> None:
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {tokens.all}\r\n"
    ended = threading.Event()
    with connected(served) as client, ThreadPoolExecutor(1) as pool:
        client.sendall(f"{head}Content-Type: application/jsonl\r\nContent-Length: 1000000\r\n\r\n".encode())
        dripping = pool.submit(drip, client, ended) if rate != "nothing more" else None
        try:
            reply = read_to_its_end(client)
        finally:
            ended.set()
        if dripping is not None:
            dripping.result()
    assert reply.startswith(b"HTTP/1.1 408"), reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_slow"


def test_a_reply_that_nobody_reads_is_given_up(served: int, tokens: Tokens) -> None:
    """The same for event streams and for downloads: the protocol does it."""
    request = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {tokens.all}\r\n\r\n".encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", served))
        client.sendall(request * REPLIES)  # more than all buffers on the way hold
        here = client.getsockname()[1]
        wait_until(lambda: here not in _peers_of(served), "the reply is given up")


def _peers_of(port: int) -> set[int]:
    """From which ports there are connections to this one, where this process holds their other end too."""
    found = psutil.Process().net_connections("tcp4")
    return {each.raddr.port for each in found if each.raddr and each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED}


@pytest.mark.slow
def test_500_event_streams_that_nobody_reads_harm_nobody(served: int, tokens: Tokens) -> None:
    url, key = f"http://127.0.0.1:{served}", {"Authorization": f"Bearer {tokens.all}"}
    job = httpx.post(f"{url}/v1/compile_jobs", json=job_body(), headers=key, timeout=60).json()["id"]
    follow = f"GET /v1/compile_jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
    with ExitStack() as held, ThreadPoolExecutor(20) as pool:
        streams = []
        for _ in range(STREAMS):
            streams.append(held.enter_context(connected(served)))
            streams[-1].sendall(f"{follow}Authorization: Bearer {tokens.all}\r\n\r\n".encode())
        for stream in streams:
            assert stream.recv(12) == b"HTTP/1.1 200"

        def ask(number: int) -> int:
            """As another project; every tenth wakes all the streams."""
            if number % 10 == 0:
                httpx.patch(f"{url}/v1/compile_jobs/{job}", json={"name": f"n{number}"}, headers=key, timeout=60).raise_for_status()
            return httpx.get(f"{url}/v1/me", headers={"Authorization": f"Bearer {tokens.other}"}, timeout=60).status_code

        assert set(pool.map(ask, range(60))) == {200}
        assert httpx.post(f"{url}/v1/compile_jobs/{job}/cancel", headers=key, timeout=60).status_code == 200
        for stream in streams:
            assert b"event: done" in _events_of(stream)


def _events_of(stream: socket.socket) -> bytes:
    found = b""
    while b"event: done" not in found and (part := stream.recv(65_536)):
        found += part
    return found
