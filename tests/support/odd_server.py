"""A server in front of another that answers as a test says: an S3 server's errors, silence, a lost connection."""

import http.client
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from stack.network import LOOPBACK

Answer = Callable[[Sequence[str]], str]
"""What becomes of a request, by the methods that were seen, its own the last: `403 AccessDenied`, `silent`, `broken`, `http://…` (passed
on), or `half http://…` (half of the reply)."""


@dataclass
class OddServer:
    endpoint: str
    seen: list[str] = field(default_factory=list)


@contextmanager
def odd_server(answer: Answer) -> Iterator[OddServer]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            server.seen.append(self.command)
            kind, _, rest = answer(server.seen).partition(" ")
            if kind == "silent":
                over.wait()
            elif kind.isdigit():
                self.refuse(int(kind), rest)
            elif kind != "broken":
                self.pass_on(rest or kind, body, cut=bool(rest))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def refuse(self, status: int, code: str) -> None:
            text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.send_header("connection", "close")  # or the client may take a connection again that is about to end
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def pass_on(self, to: str, body: bytes, *, cut: bool) -> None:
            connection = http.client.HTTPConnection(urlsplit(to).netloc)
            connection.request(self.command, self.path, body, dict(self.headers))
            reply = connection.getresponse()
            data = reply.read()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            connection.close()

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server = OddServer(f"http://{LOOPBACK}:{listening.server_address[1]}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        over.set()
        listening.shutdown()
        thread.join()
        listening.server_close()
