"""A whole Stillhouse in processes of its own, a scripted teacher, and what a test needs to look at both.

with World(home, models) as world:
    job = world.submit(body(anchors() + odd("one", 8)))
    world.kill("worker-1")
    world.wait_over([job])
    assert world.violations() == []

What hurts it is in `faults`, what must hold in `invariants`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, Self

import httpx
import psycopg
import pytest
from psycopg.rows import TupleRow
from sqlalchemy import make_url

from distill.execute.hooks import POINTS
from distill.sandbox import choose
from stack.console import Silent
from stack.keys import make_key
from stack.parts import Part, line, reachable
from stack.plan import Layout, api_command
from stack.servers import plan_servers
from stack.supervisor import Stack
from stack.watch import Patience
from tests.chaos.audit import DDL
from tests.chaos.dispatcher import SENT
from tests.chaos.jobs import BUNDLE, teach
from tests.support import databases
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import wait_until

ROOT = Path(__file__).parents[2]
QUEUES = "light,rollouts,train"
TEACHER_KEY = "sk-canary-of-the-teacher-5b1f7c"
TIMERS = {
    "LEASE_SECONDS": "5",
    "BEAT_SECONDS": "0.5",
    "REAP_GRACE_SECONDS": "0.5",
    "REAP_PERIOD_SECONDS": "0.5",
    "DISPATCH_POLL_SECONDS": "0.2",
    "RESEND_SECONDS": "2",
    "RETRY_BASE_SECONDS": "0.2",
    "RETRY_CAP_SECONDS": "2",
    "CHECKPOINT_SECONDS": "0.2",
}
POINTS_TO_DIE_AT = (*sorted(POINTS), SENT)
ANSWER_SECONDS = 180.0
"""How long a client asks: an API that is killed twice in a row needs a while to be back on a loaded machine."""
PATIENCE_SECONDS = 300.0
"""With a part that starts, or a job that runs, on a machine that has much else to do."""
OVER = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Disruption:
    """Something that may have cut calls off, and from when to when; in seconds of the wall clock. `pid` is the worker whose calls they
    were; None: anybody's."""

    kind: str
    since: float
    until: float
    pid: int | None = None


class _Board(Silent):
    """How each part stands, as the stack tells it."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def state(self, name: str, state: str, detail: str = "") -> None:
        self.states[name] = state


@dataclass
class World:
    """`workers` Celery workers, each for all queues with `threads` threads; one dispatcher, one API; PostgreSQL and Valkey of its own.

    Attributes:
        preloaded: variables of dispatcher, workers and API alone.
        accepted: the jobs that the API has taken, by id, and what they are.
        refused: replies of the API that no fault excuses.
        disruptions: what was done to it.
    """

    home: Path
    models: Path
    workers: int = 2
    threads: int = 4
    latency: float = 0.05
    timers: Mapping[str, str] = field(default_factory=dict)
    projects: int = 1
    preloaded: Mapping[str, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    disruptions: list[Disruption] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._asking = threading.Lock()
        self._numbers = itertools.count()
        self._board = _Board()
        self.lm = ScriptedLM(answer=teach, latency=self.latency, api_key=TEACHER_KEY).__enter__()
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                _forget_developer(monkeypatch)
                self._start()
                self._make_keys(monkeypatch)
        except BaseException:
            self.lm.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self.stack.stop()
        self.lm.__exit__()

    def _start(self) -> None:
        (self.home / "tmp").mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o711)  # the database's user must pass
        self.markers.mkdir(exist_ok=True)
        for point in POINTS_TO_DIE_AT:
            (self.markers / point).touch()  # nobody dies there until `faults.death_at` takes the marker away
        postgres = plan_servers(self.home, {}).postgres
        assert postgres is not None
        with (postgres.installation.data / "postgresql.conf").open("a") as file:
            file.write("track_commit_timestamp = on\n")  # when a trace was committed is what repeated calls are judged by
        self.stack = Stack(
            self.home,
            lm_host=False,
            environment=self._environment(),
            planner=self._parts,
            reporter=self._board,
            patience=Patience(quick_seconds=0.0, first_delay_seconds=0.1),
        )
        self.stack.start()
        with self.connect() as connection:
            connection.execute(DDL)

    def _make_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", self.stack.layout.database_url)
        databases.forget_settings()
        self.keys = [make_key(f"project-{number}", "chaos") for number in range(self.projects)]
        databases.forget_settings()

    def _environment(self) -> dict[str, str]:
        known = {"base_url": self.lm.url, "api_key_env": "CHAOS_TEACHER_KEY", "max_in_flight": 64}
        connections = {
            "teacher": {**known, "models": ["big"], "default_teacher": True},
            "house": {**known, "models": ["local/tiny"], "default_student": True, "supports": ["lora"], "trainer": "local"},
        }
        return {
            "STILLHOUSE_CONNECTIONS": json.dumps(connections),
            "STILLHOUSE_MODELS": str(self.models),
            "STILLHOUSE_CONFIG": str(self.home / "stillhouse.toml"),
            "STILLHOUSE_BUNDLES__ACCEPT": json.dumps(choose().rung is not None),
            "STILLHOUSE_CRASH_AT": ",".join(POINTS_TO_DIE_AT),
            "STILLHOUSE_CRASH_MARKERS": str(self.markers),
            "CHAOS_TEACHER_KEY": TEACHER_KEY,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.home / "tmp"),  # by it runners are known as this world's
            "PYTHONPATH": str(ROOT),
            **{f"STILLHOUSE_TIMERS__{name}": seconds for name, seconds in {**TIMERS, **self.timers}.items()},
        }

    def _parts(self, layout: Layout) -> Sequence[Part]:
        python = (sys.executable, "-m")
        parts = [self._part(layout, "dispatcher", (*python, "tests.chaos.dispatcher"))]
        for name in self.worker_names:
            options = (
                "-Q",
                QUEUES,
                "--pool",
                "threads",
                "-c",
                str(self.threads),
                "-n",
                f"{name}@%h",
                "--without-gossip",
                "--without-mingle",
            )
            parts.append(self._part(layout, name, (*python, "celery", "-A", "tests.chaos.worker", "worker", *options, "-l", "info")))
        api = Part(
            name="api", command=api_command(layout.host, layout.port), tier=3, ready=reachable(f"{layout.base_url}/livez"),
            environment={**layout.server_environment(), **self.preloaded}, workdir=layout.home, ready_seconds=PATIENCE_SECONDS,
        )  # fmt: skip
        return [*parts, api]

    def dispatcher(self, name: str) -> Part:
        """One beside the one that there is."""
        return self._part(self.stack.layout, name, (sys.executable, "-m", "tests.chaos.dispatcher"))

    def _part(self, layout: Layout, name: str, command: tuple[str, ...]) -> Part:
        return Part(
            name=name, command=command, tier=2, ready=line(r"\bready\b"), environment={**layout.server_environment(), **self.preloaded},
            workdir=layout.home, grace_seconds=30, ready_seconds=PATIENCE_SECONDS,
        )  # fmt: skip

    @property
    def markers(self) -> Path:
        """See `distill.execute.hooks`."""
        return self.home / "markers"

    @property
    def worker_names(self) -> tuple[str, ...]:
        return tuple(f"worker-{number + 1}" for number in range(self.workers))

    # ------------------------------------------------------------ processes

    def pid(self, part: str) -> int:
        assert self.stack.crew is not None
        return self.stack.crew.child(part).pid

    def is_whole(self) -> bool:
        """Whether every part runs and takes work."""
        assert self.stack.crew is not None
        children = self.stack.crew.children()
        return all(child.exit_code() is None and self._board.states.get(child.part.name) == "ready" for child in children)

    def wait_whole(self) -> None:
        wait_until(self.is_whole, f"not every part came back: {self._board.states}")

    @contextlib.contextmanager
    def disrupted(self, kind: str, after: float = 0.0, pid: int | None = None) -> Iterator[None]:
        """Note what the block does, to whom, and that its effects end `after` seconds later."""
        since = time.time()
        yield
        self.disruptions.append(Disruption(kind, since, time.time() + after, pid))

    # ------------------------------------------------------------ database

    @property
    def dsn(self) -> str:
        return make_url(self.stack.layout.database_url).set(drivername="postgresql").render_as_string(hide_password=False)

    def connect(self) -> psycopg.Connection[TupleRow]:
        return psycopg.connect(self.dsn, autocommit=True, application_name="chaos", connect_timeout=5)

    def query(self, statement: LiteralString, *values: Any) -> list[Any]:
        """Rows; a database that is away is waited for. From any thread."""
        deadline, pause = time.monotonic() + 60, threading.Event()
        with self._asking:
            while True:
                try:
                    self._connection = self._connection or self.connect()
                    return self._connection.execute(statement, values or None).fetchall()
                except psycopg.OperationalError:
                    self._hang_up()
                    if time.monotonic() > deadline:
                        raise
                    pause.wait(0.1)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ------------------------------------------------------------ the API

    def submit(self, body: Mapping[str, Any], *, what: str = "job", project: int = 0, key: str | None = None) -> str:
        """Send a job until it is taken: with the same Idempotency-Key, so once. Its id."""
        key = key or f"chaos-{next(self._numbers)}"
        reply = self._call(project, "/v1/compile_jobs", key, body, lambda code: code == 201)
        job = str(reply.json()["id"])
        self.accepted[job] = what
        return job

    def send_code(self, project: int = 0) -> None:
        """The bundle of `jobs.OWN_METRIC`."""
        self._call(project, "/v1/bundles", f"chaos-{next(self._numbers)}", BUNDLE, lambda code: code in (200, 201))

    def ask(self, job: str, verb: str, *, project: int = 0) -> int:
        """cancel, retry, pause, … ; the status of the reply, which may be a conflict."""
        key = f"chaos-{next(self._numbers)}"
        return self._call(project, f"/v1/compile_jobs/{job}/{verb}", key, None, lambda code: code < 500).status_code

    def look(self, job: str, *, project: int = 0) -> int:
        """The status of the reply to one GET of a job."""
        return self.get(f"/v1/compile_jobs/{job}", project=project).status_code

    def get(self, path: str, *, project: int = 0) -> httpx.Response:
        """One GET, whatever its reply. Raises httpx.TransportError."""
        reply = httpx.get(self.stack.base_url + path, headers={"authorization": f"Bearer {self.keys[project]}"}, timeout=20)
        self.replies.append(reply.text)
        return reply

    def _call(self, project: int, path: str, key: str, body: Any, done: Callable[[int], bool]) -> httpx.Response:
        """Raises AssertionError for a reply that says no, or none that says yes within ANSWER_SECONDS."""
        headers = {"authorization": f"Bearer {self.keys[project]}", "idempotency-key": key}
        deadline, pause = time.monotonic() + ANSWER_SECONDS, threading.Event()
        while True:
            with contextlib.suppress(httpx.TransportError):
                reply = httpx.post(self.stack.base_url + path, json=body, headers=headers, timeout=20)
                self.replies.append(reply.text)
                busy = reply.status_code == 409 and "retry-after" in reply.headers  # an earlier try of this request still runs
                if done(reply.status_code) and not busy:
                    return reply
                if reply.status_code != 503 and not busy:
                    self.refused.append(f"{path}: {reply.status_code} {reply.text[:300]}")
                assert reply.status_code >= 500 or busy, reply.text
            assert time.monotonic() < deadline, f"{path} was not answered in {ANSWER_SECONDS:.0f} s"
            pause.wait(0.1)

    # ------------------------------------------------------------ jobs

    def statuses(self) -> dict[str, str]:
        return dict(self.query("SELECT id, status FROM jobs"))

    def status(self, job: str) -> str:
        return str(self.query("SELECT status FROM jobs WHERE id = %s", job)[0][0])

    def holders(self, job: str, step: str) -> list[str]:
        """The worker parts that hold a lease on a step of a job."""
        owners = self.query("SELECT lease_owner FROM work_items WHERE job_id = %s AND step = %s AND status = 'leased'", job, step)
        pids = {int(str(owner).split("-")[-2]) for (owner,) in owners}
        return [name for name in self.worker_names if self.pid(name) in pids]

    def wait_held(self, job: str, step: str) -> str:
        """Until a worker works on a step; its name."""
        found: list[str] = []

        def held() -> bool:
            found[:] = self.holders(job, step)
            return bool(found)

        wait_until(held, f"nobody works on {step} of {job}")
        return found[0]

    def wait_over(self, jobs: Sequence[str], seconds: float = PATIENCE_SECONDS) -> None:
        def over() -> bool:
            statuses = self.statuses()
            return all(statuses.get(job) in OVER for job in jobs)

        wait_until(over, "the jobs are not over", seconds)

    def told(self, job: str, kind: str) -> list[str]:
        """The messages of a job's events of one type, in their order."""
        found = self.query("SELECT message FROM job_events WHERE job_id = %s AND type = %s ORDER BY seq", job, kind)
        return [message for (message,) in found]

    def failure(self, job: str) -> tuple[str, str | None]:
        """Its status, and the code of its error."""
        ((status, code),) = self.query("SELECT status, error->>'code' FROM jobs WHERE id = %s", job)
        return status, code

    def wait_for_calls(self, text: str, count: int) -> None:
        """Until so many calls about it were answered."""
        wait_until(lambda: self.calls_about(text) >= count, f"{count} calls about {text}")

    def calls_about(self, text: str) -> int:
        """Answered calls whose message holds this text."""
        return sum(text in str(call.body["messages"][-1]["content"]) for call in list(self.lm.calls))

    # ------------------------------------------------------------ breaking it on purpose

    @contextlib.contextmanager
    def broken(self, name: str) -> Iterator[None]:
        """While the block runs, every worker and dispatcher does `name` wrong (see `breaks`)."""
        marker = self.home / "broken" / name
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        try:
            yield
        finally:
            marker.unlink()


def _forget_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("STILLHOUSE_", "DATABASE_URL", "REDIS_URL", "LMHOST_")):
            monkeypatch.delenv(name)
