"""`python -m tests.integration.core.mute_dispatcher`: the real dispatcher, where looking up a name under `.test` has no end."""

import socket
import threading
from typing import Any

from workers import dispatcher

_ask = socket.getaddrinfo


def _look_up(host: Any, *rest: Any, **more: Any) -> Any:
    if str(host).endswith(".test"):
        print("looks up", host, flush=True)
        threading.Event().wait()
    return _ask(host, *rest, **more)


if __name__ == "__main__":
    socket.getaddrinfo = _look_up
    dispatcher.main()
