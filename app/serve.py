"""`python -m app.serve`: the API on uvicorn. It refuses to start where it would lose jobs or let strangers in."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn

from app.main import create_app
from app.slow_clients import BoundedProtocol
from distill import ending, logs, tracing
from distill.catalog import blobs, key_rotation, keys
from distill.db import is_outage, unit_of_work
from distill.errors import StartRefused, StillhouseError, in_one_line
from distill.queue import check_broker
from distill.settings import get_settings
from distill.storage import open_store
from migrations.runner import check_schema

log = structlog.get_logger(__name__)

OPTIONS: dict[str, Any] = {
    # At a stop: without an end an open event stream would hold the process for ever.
    "timeout_graceful_shutdown": 5,
    # Longer than a client pauses between two requests of a wait, so that it need not connect anew.
    "timeout_keep_alive": 20,
    # Below the usual 1,024 open files: who comes beyond it is told 503, instead of nobody being answered.
    "limit_concurrency": 800,
    # Of h11, whose errors `LastResort` knows.
    "http": BoundedProtocol,
    # What runs here is nobody's business.
    "server_header": False,
    # uvicorn's lines go through our logging; requests are logged by `app.middleware`, without their query, which may hold a key.
    "log_config": None,
    "access_log": False,
}


class Server(uvicorn.Server):
    """Gone soon after it was told to stop, though a thread of it may wait for a database that hangs."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        ending.within()
        super().handle_exit(sig, frame)


def check(host: str) -> None:
    """Raises StartRefused or StorageError, which say what to do; an SQLAlchemy error when the database is away."""
    with unit_of_work("api") as s:
        check_schema(s)
        blobs.check_store(s, open_store(get_settings()))
        has_keys = keys.exist(s)
        if warning := key_rotation.warning_of_lost_key(s):
            log.warning(warning)
    check_broker()
    if not has_keys and not _is_loopback(host):
        raise StartRefused(
            f"other machines may reach {host}, and there is no API key yet: make one with `stillhouse-server create-key`, "
            "or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    """A name is loopback when all its addresses are. Raises StartRefused for a name without any."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise StartRefused(f"this machine has no address {host}: see [server] host") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    try:
        logs.configure("api")
        tracing.configure("api")
        check(given.host)
    except Exception as error:
        if not isinstance(error, StillhouseError) and not is_outage(error):
            raise
        log.error("api cannot start", error=in_one_line(error))
        sys.exit(1)
    server = Server(uvicorn.Config(partial(create_app, given.host), factory=True, host=given.host, port=given.port, **OPTIONS))
    with suppress(KeyboardInterrupt):
        server.run()
    tracing.stop()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
