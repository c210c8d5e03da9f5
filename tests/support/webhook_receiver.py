"""A receiver of webhooks on loopback, which answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stack.network import LOOPBACK


@dataclass
class Receiver:
    """Answers with the next of `answers`, the last for ever; what came is in `got`."""

    answers: list[int] = field(default_factory=lambda: [204])
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)
    url: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    """Shut, it answers nobody."""

    def take(self, headers: dict[str, str], body: str) -> int:
        self.got.append((headers, body))
        self.gate.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.send_response(own.take({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_header("location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        own = Receiver(url=f"http://{LOOPBACK}:{server.server_address[1]}/hook")
        own.gate.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield own
        finally:
            own.gate.set()
            server.shutdown()
            thread.join()
