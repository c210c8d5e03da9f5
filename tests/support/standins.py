"""Small commands that stand in for the parts of a stack, so that the supervisor is tested without the server."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.parts import Part, Ready, line, reachable
from stack.plan import Layout

_WORKER = """
    import pathlib, signal, subprocess, sys
    journal = pathlib.Path(sys.argv[2])
    def stop(*_):
        with journal.open("a") as file: file.write(sys.argv[1] + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    # A grandchild in a session of its own, as a trainer is, that ignores polite requests.
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    grandchild = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
    print(f"worker takes work: ready, grandchild={grandchild.pid}", flush=True)
    while True: signal.pause()
"""

_API = """
    import http.server, pathlib, signal, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
        def log_message(self, *arguments): pass
    def stop(*_):
        with pathlib.Path(sys.argv[2]).open("a") as file: file.write("api\\n")
        raise SystemExit
    signal.signal(signal.SIGTERM, stop)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def python(script: str, *arguments: object) -> tuple[str, ...]:
    """A command that runs a script."""
    return (sys.executable, "-c", textwrap.dedent(script), *map(str, arguments))


def worker(name: str, journal: Path, tier: int = 2) -> Part:
    """Says `ready` with the number of a grandchild, and notes its name in the journal when it is asked to stop."""
    return Part(name=name, command=python(_WORKER, name, journal), tier=tier, ready=line(r"\bready\b"))


def api(port: int, journal: Path) -> Part:
    """Answers every GET."""
    return Part(name="api", command=python(_API, port, journal), tier=3, ready=reachable(f"http://127.0.0.1:{port}/livez"), grace_seconds=5)


def dying(name: str, ready: Ready, message: str = "no model in the shop", code: int = 3) -> Part:
    """Writes a message and ends at once."""
    command = python("import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))", message, code)
    return Part(name=name, command=command, tier=2, ready=ready)


def parts_of(layout: Layout) -> Sequence[Part]:
    """An API and two workers; they write to `journal` in the home."""
    journal = layout.home / "journal"
    return [worker("lm-host", journal, tier=1), worker("worker-train", journal), api(layout.port, journal)]


def prepared(_layout: Layout, _environment: Mapping[str, str]) -> Mapping[str, str]:
    """Credentials without a database."""
    return {"api_key": "sh_test_key", "project": "default"}
