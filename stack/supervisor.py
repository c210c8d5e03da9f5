"""The whole stack as one object: for `stillhouse-server up`, for tests, for the demo."""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from stack.console import Reporter, Silent
from stack.crew import Crew
from stack.errors import PartFailed, StackError
from stack.home import HomeLock, open_home, read_state, write_private, write_state
from stack.network import LOOPBACK, free_port, reached_at, require_free
from stack.parts import Part
from stack.plan import Layout, bucket_keys, part_environment, standard_parts, without_secrets
from stack.servers import Servers, plan_servers
from stack.watch import Patience, Watchman

DEFAULT_PORT = 8400
Planner = Callable[[Layout], Sequence[Part]]
Preparer = Callable[[Layout, Mapping[str, str]], Mapping[str, str]]


class Stack:
    """Servers, API, dispatcher, workers and LM host as child processes.

        with Stack(home, fast=True) as stack:
            Stillhouse(base_url=stack.base_url, api_key=stack.api_key)

    Args:
        home: everything the stack keeps; created when missing.
        host: the address that the API listens on.
        port: of the API; None takes a free one.
        rollout_workers: work items of the queue `rollouts` side by side.
        lm_host: start the embedded LM host and its agent.
        base_model, log_format, tracing_endpoint: of the LM host.
        drain_seconds: how long its workers take to stop at most, by their settings.
        fast: no durability and no restarts: for tests.
        environment: more variables for the server's parts.
        reporter: told what happens.
        planner, preparer: replace the parts and what is done before them; for tests of the supervisor itself.

        patience: how often a part may die; None: the default.

    Attributes:
        crew: the running parts.
        watchman: looks after them; None when `fast`.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        rollout_workers: int = 2,
        lm_host: bool = True,
        base_model: str = "smollm2-135m-instruct",
        log_format: str = "console",
        tracing_endpoint: str | None = None,
        drain_seconds: float = 110.0,
        fast: bool = False,
        environment: Mapping[str, str] | None = None,
        reporter: Reporter | None = None,
        planner: Planner = standard_parts,
        preparer: Preparer | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.home = open_home(home)
        self.host = host
        self.port = port or free_port()
        self.fast = fast
        self._rollout_workers, self._lm_host, self._base_model = rollout_workers, lm_host, base_model
        self._log_format, self._tracing_endpoint = log_format, tracing_endpoint
        self._drain_seconds = drain_seconds
        self._extra = {**bucket_keys(os.environ), **(environment or {})}
        self._reporter: Reporter = reporter or Silent()
        self._planner, self._preparer = planner, preparer or run_preparation
        self._patience = patience
        self._stop_asked = threading.Event()
        self._lock: HomeLock | None = None
        self._servers: Servers | None = None
        self._layout: Layout | None = None
        self._credentials: Mapping[str, str] = {}
        self.crew: Crew | None = None
        self.watchman: Watchman | None = None

    @property
    def base_url(self) -> str:
        return f"http://{reached_at(self.host)}:{self.port}"

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked.is_set()

    @property
    def api_key(self) -> str:
        return self._credentials["api_key"]

    @property
    def data_folder(self) -> Path:
        """Of the embedded PostgreSQL. Raises StackError where there is none."""
        if self._servers is None or self._servers.postgres is None:
            raise StackError("no embedded PostgreSQL was started")
        return self._servers.postgres.installation.data

    @property
    def layout(self) -> Layout:
        """Addresses of everything; known once started."""
        if self._layout is None:
            raise StackError("the stack is not started")
        return self._layout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Until every part is ready. Raises StackError; nothing is left running then."""
        self._lock = HomeLock(self.home)
        try:
            self._lock.acquire()
            require_free(self.host, self.port)
        except StackError:
            self._lock.release()
            raise
        try:
            self._start_locked(self._lock)
        except BaseException:
            self.stop()
            raise

    def _start_locked(self, lock: HomeLock) -> None:
        common = part_environment(self.home, without_secrets(os.environ))
        self.crew = Crew(self.home, common, self._reporter.line, lock.fd)
        if self._stop_asked.is_set():
            self.crew.stopping.set()
        given = {} if self.fast else os.environ
        self._servers = plan_servers(self.home, given, fast=self.fast)
        if self._servers.notice:
            self._reporter.say(self._servers.notice)
        self._layout = layout = self._make_layout(self._servers)
        parts = [*self._planner(layout)]
        self._reporter.begin([part.name for part in (*self._servers.parts, *parts)])
        self._bring_up(self.crew, self._servers.parts)
        self._credentials = self._preparer(layout, {**common, **layout.server_environment()})
        self._remember(layout)
        self._bring_up(self.crew, parts)
        lock.describe(self.base_url)
        self._reporter.end()
        if not self.fast:
            self.watchman = Watchman(self.crew, self._reporter, self._patience)
            self.watchman.start()

    def _make_layout(self, servers: Servers) -> Layout:
        return Layout(
            home=self.home,
            host=self.host,
            port=self.port,
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            rollout_workers=self._rollout_workers,
            lm_port=free_port() if self._lm_host else None,
            lm_key=secrets.token_urlsafe(24),
            base_model=self._base_model,
            log_format=self._log_format,
            tracing_endpoint=self._tracing_endpoint,
            drain_seconds=self._drain_seconds,
            extra=self._extra,
        )

    def _bring_up(self, crew: Crew, parts: Sequence[Part]) -> None:
        children = []
        for part in parts:
            self._reporter.state(part.name, "starting")
            children.append(crew.start(part))
        crew.wait_ready(children, lambda child, seconds: self._reporter.state(child.part.name, "ready", f"{seconds:.1f} s"))

    def _remember(self, layout: Layout) -> None:
        """For the SDK and for `stillhouse-server` commands in another terminal. The keys of a bucket stay out of it: they are not ours."""
        told = layout.server_environment()
        told = {name: value for name, value in told.items() if name not in bucket_keys(told)}
        write_state(self.home, {**read_state(self.home), "environment": told})
        write_private(self.home / "credentials.json", json.dumps({"base_url": layout.base_url, **self._credentials}, indent=1))

    def ask_to_stop(self) -> None:
        """From a signal handler or another thread; `wait` then returns, a start in progress is given up."""
        self._stop_asked.set()
        if self.crew:
            self.crew.stopping.set()

    def wait(self) -> None:
        """Until somebody asks to stop. Raises PartFailed when a part died too often."""
        # Two events end the wait; each is looked at twice a second.
        while not self._stop_asked.wait(0.25):
            if self.watchman and self.watchman.over.is_set():
                raise self.watchman.failure or PartFailed("the stack", "gave up")

    def stop(self) -> float:
        """Stop everything in order; seconds it took. No process is left; a second call does nothing."""
        self._reporter.end()
        took = 0.0
        if self.crew:
            self.crew.stopping.set()
            if self.watchman:
                self.watchman.join()
            took = self.crew.stop()
            self.crew = None
        if self._lock:
            self._lock.release()
            self._lock = None
        return took

    def restart_part(self, name: str) -> None:
        """Start a part that was stopped or killed, and wait until it is ready. Raises KeyError, PartFailed."""
        crew = self.crew
        if crew is None:
            raise StackError("the stack is not started")
        parts = {part.name: part for part in (*(self._servers.parts if self._servers else ()), *self._planner(self.layout))}
        self._bring_up(crew, [parts[name]])


def run_preparation(layout: Layout, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Migrate, and make the project `default` and its key on the first start. Raises StackError with what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "stack.prepare"], env=environment, cwd=layout.home, capture_output=True, text=True, check=False
    )
    (layout.home / "logs").mkdir(exist_ok=True)
    (layout.home / "logs" / "prepare.log").write_text(done.stderr)
    if done.returncode:
        raise StackError("the database could not be prepared:\n" + "\n".join(done.stderr.strip().splitlines()[-8:]))
    found = json.loads(done.stdout)
    return {"api_key": str(found["api_key"]), "project": str(found["project"])}
