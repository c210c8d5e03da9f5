"""The API's process is told to stop while a hundred clients follow a job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack

import httpx
import pytest

from stack.network import answers, free_port
from stack.plan import api_command
from tests.integration.api.conftest import Tokens, job_body
from tests.support.server_process import wait_until

FOLLOWERS = 100
SECONDS = 15.0
"""Five for the replies under way, by `app.serve`; the rest is for a loaded machine."""


def follow(port: int, job: str, token: str) -> socket.socket:
    """A client that has read the first event, and waits for more."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    headers = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    client.sendall(f"GET /v1/compile_jobs/{job}/events HTTP/1.1\r\n{headers}".encode())
    read = b""
    while b"event: " not in read:
        read += client.recv(65536)
    return client


@pytest.mark.slow
@pytest.mark.usefixtures("redis_url")
def test_open_event_streams_do_not_hold_the_process(tokens: Tokens) -> None:
    port = free_port()
    with subprocess.Popen(api_command("127.0.0.1", port), env=os.environ, stderr=subprocess.DEVNULL) as process, ExitStack() as stack:
        stack.callback(process.kill)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the API is not ready")
        headers = {"Authorization": f"Bearer {tokens.all}"}
        job = httpx.post(f"http://127.0.0.1:{port}/v1/compile_jobs", json=job_body(), headers=headers, timeout=60).json()["id"]
        streams = [stack.enter_context(follow(port, job, tokens.all)) for _ in range(FOLLOWERS)]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
        print(f"gone after {time.monotonic() - began:.1f} s")
        for stream in streams:
            while stream.recv(65536):
                pass
