"""What one runner may hold at the relay: connections, bytes of bodies, names. Others have theirs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from distill.relay import Relay, RunnerConnections, TooManyConnections
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import wait_until
from tests.unit.relay.support import BODY, LIMITS, target
from tests.unit.relay.test_relay import post


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay(replace(LIMITS, connections=8, runner_body_bytes=300_000, body_seconds=1)).start()
    yield relay
    relay.stop()


def all_of(runner: RunnerConnections) -> list[socket.socket]:
    held = list[socket.socket]()
    with suppress(TooManyConnections):
        while len(held) < 100:
            held.append(runner.connect())
    return held


def close(connections: list[socket.socket]) -> int:
    """How many there were."""
    for connection in connections:
        connection.close()
    return len(connections)


def request(token: str, length: int, body: bytes) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n".encode()
        + body
    )


def answer(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    return connection.recv(65536)


def test_connections_are_bounded_and_given_back(relay: Relay) -> None:
    greedy, other = relay.connections(), relay.connections()
    held = all_of(greedy)
    with ScriptedLM(answer=lambda ask: "fine") as lm:
        assert asyncio.run(post(relay, relay.grant({"student": target(lm)}).token))[0] == 200, "of another runner"
    assert close(all_of(other)) == 8, "whatever the others hold"
    assert close(held) == 8
    wait_until(lambda: greedy.used == 0, "they are given back")
    assert close(all_of(greedy)) == 8


def test_unfinished_bodies_hold_up_their_own_runner_alone(relay: Relay) -> None:
    body = json.dumps(BODY).encode()
    with ScriptedLM(answer=lambda ask: "fine") as lm:
        token, runner = relay.grant({"student": target(lm)}).token, relay.connections()
        stalled = [runner.connect() for _ in range(3)]
        for connection in stalled:
            connection.sendall(request(token, 100_000, b'{"model"'))
        wait_until(lambda: runner.free_bytes == 0, "they hold all that there is")
        last = runner.connect()
        last.sendall(request(token, len(body), body))
        assert asyncio.run(post(relay, token))[0] == 200, "of another runner"
        assert len(lm.calls) == 1
        assert answer(last).startswith(b"HTTP/1.1 200 ")
        assert [answer(connection).split(b"\r\n")[0] for connection in stalled] == [b"HTTP/1.1 408 Request Timeout"] * 3
        close([*stalled, last])


def test_names_of_rollouts_are_bounded(relay: Relay) -> None:
    with ScriptedLM(answer=lambda ask: "fine") as lm:
        grant = relay.grant({"student": target(lm)})
        head = f"GET /v1/waiting HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {grant.token}\r\nstillhouse-rollout: "
        with relay.connections().connect() as connection:
            for number in range(200):
                connection.sendall(f"{head}run {number}\r\n\r\n".encode())
                assert answer(connection).endswith(b'{"seconds": 0.0}')
        assert len(grant._waits) == 0
        assert asyncio.run(post(relay, grant.token, headers={"stillhouse-rollout": "x" * 201}))[::2] == (400, "bad_request")
        assert lm.calls == []
