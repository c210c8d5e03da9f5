"""A process that compiles against a scripted server whose job never ends, for tests that interrupt it.

`python -m tests.unit.client.interrupted CALLS` makes the same call so many times, and says of each what the server was asked.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import termios
import threading
from typing import Any

import httpx

import stillhouse
from tests.unit.client.dropin_server import Server, desk, example

JOB: dict[str, Any] = {"id": "cjob-1", "status": "running", "created_at": 1, "rollouts": {"where": "server"}}


class Endless(Server):
    """Knows the job that was made, by its metadata, and holds whoever waits for it."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/compile_jobs" and request.method == "GET":
            wanted = request.url.params["metadata[stillhouse_call]"]
            made = [body["metadata"]["stillhouse_call"] for body in self.bodies("POST /v1/compile_jobs")]
            self.jobs = [JOB] if wanted in made else []
        if "wait" in request.url.params:
            print("it waits", flush=True)
            threading.Event().wait(800)
        return super().__call__(request)

    def _answer(self, method: str, path: str, body: Any) -> Any:
        if path.startswith("/v1/compile_jobs/cjob-1") or (path == "/v1/compile_jobs" and method == "POST"):
            return JOB
        return super()._answer(method, path, body)


def main(calls: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background of a shell
    if sys.stdin.isatty():  # so that Ctrl-C typed there is a SIGINT here
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    server = Endless()
    with stillhouse.Stillhouse("http://server", "sh_a_b", transport=httpx.MockTransport(server)) as client:
        for _ in range(calls):
            try:
                stillhouse.BootstrapFinetune(metric="exact_match", client=client).compile(desk("house/tiny"), [example(0)])
            except KeyboardInterrupt:
                made, cancelled = (len(server.bodies(f"POST {path}")) for path in ("/v1/compile_jobs", "/v1/compile_jobs/cjob-1/cancel"))
                print(f"over: {made} made, {cancelled} cancelled", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
