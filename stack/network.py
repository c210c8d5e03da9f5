"""Local addresses: free ports, taken ports, is anybody there."""

import errno
import http.client
import socket
import urllib.error
import urllib.request

from stack.errors import PortTaken, StackError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port of the loopback address that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reached_at(host: str) -> str:
    """The host of a URL under which this machine reaches a server that listens on `host`, which may be every address at once."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def require_free(host: str, port: int) -> None:
    """Raises PortTaken when the address cannot be bound, StackError when this machine has no such address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StackError(f"this machine has no address {host}; see [server] host") from error
    with socket.socket(family) as probe:
        # As uvicorn does: a connection of an earlier run that is still being closed is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise StackError(f"this machine has no address {host}; see [server] host") from error
            raise PortTaken(host, port) from error


def answers(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a GET of the address is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:  # noqa: S310 - our own loopback address
            return int(reply.status) == 200
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False
