"""What an LM host's agent makes of the host's answers."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distill.execute.lm_host import CannotSleep, HostRefused, HostUnreachable, LmHostClient


class Host(ThreadingHTTPServer):
    """Answers every request with one status."""

    status = 404


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def client(host: Host) -> LmHostClient:
    return LmHostClient(f"http://127.0.0.1:{host.server_port}/v1", None)


class TestSleep:
    @pytest.mark.parametrize("status", [404, 405])
    def test_a_host_without_the_route_cannot_and_never_does(self, host: Host, status: int) -> None:
        host.status = status
        with pytest.raises(CannotSleep):
            client(host).sleep()
        assert not client(host).is_sleeping()

    def test_another_refusal_is_told_as_one(self, host: Host) -> None:
        host.status = 500
        with pytest.raises(HostRefused) as refused:
            client(host).sleep()
        assert refused.value.status == 500

    def test_a_host_that_is_away_is_unreachable(self, host: Host) -> None:
        away = client(host)
        host.shutdown()
        host.server_close()
        with pytest.raises(HostUnreachable):
            away.sleep()
