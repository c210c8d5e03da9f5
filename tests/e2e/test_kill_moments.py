"""The API, a worker, or the whole stack killed with -9 at twelve moments of a job, two in each step.

One server, `stillhouse-server up` on a durable home, lives through all of it. Each moment has a project of its own, so none finds traces
of an earlier one, and runs the same job; what it leaves must be what the undisturbed job of the first project left.

A worker dies at a crash point inside it (`distill.execute.hooks`), armed when the moment comes: before the job is sent, or while the
teacher or a worker stands still for it. For the whole stack the same point says when, and everything else is killed at once. The API does
no part of a job's work, so what is seen from outside says when: an event.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from sqlalchemy import make_url

from distill.execute.hooks import POINTS
from stack.keys import make_key
from stack.network import answers
from stillhouse import Stillhouse
from stillhouse.types import CompileJob, Event
from tests.e2e.lessons import PROGRAM, rows, teach
from tests.support import databases
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import API, ServerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS, HELD_OUT, WIDTH = 32, 4, 4
CALLS_OF_AN_EXAMPLE = 2
LATENCY_SECONDS = 0.25
ENOUGH_CALLS = 44
"""The moments of `bootstrap` come after so many, and the teacher answers no more before. Were all paid again, the test would see it."""

LM = {"temperature": 0, "max_tokens": 8, "train_options": {"n_epochs": 12, "batch_size": 8, "learning_rate": 0.001, "lora_r": 8}}
JOB: dict[str, Any] = {
    "program": PROGRAM,
    "program_name": "support",
    "trainset": rows(ROWS),
    "valset": rows(HELD_OUT, start=100),
    "metric": {"type": "exact_match", "fields": ["category"]},
    "lms": {"sorter": LM, "writer": LM},
    "num_threads": WIDTH,
}
TIMERS = {
    "LEASE_SECONDS": "6",
    "BEAT_SECONDS": "0.5",
    "REAP_GRACE_SECONDS": "0.5",
    "REAP_PERIOD_SECONDS": "0.5",
    "DISPATCH_POLL_SECONDS": "0.2",
    "RETRY_BASE_SECONDS": "0.5",
}

# A rollout counts only with its trace in the project's store.
TRACES = """SELECT f.role, f.example_index, f.rollout, f.trace_digest, t.status FROM row_facts f JOIN jobs j ON j.id = f.job_id
    JOIN traces t ON t.project_id = j.project_id AND t.digest = f.trace_digest
    WHERE f.job_id = %s AND f.kind = 'rollout' AND f.role LIKE 'teacher%%' ORDER BY 1, 2, 3"""
KEPT = "SELECT predictor, example_index, rollout, call, row_digest FROM row_facts WHERE job_id = %s AND kind = 'kept' ORDER BY 1, 2, 3, 4"
KEYS = "SELECT predictor, predictors, rows, training_file, validation_file FROM fine_tune_jobs WHERE job_id = %s ORDER BY predictor"
ARTIFACTS = "SELECT count(*) FROM artifacts WHERE job_id = %s"
MODELS = "SELECT count(*) FROM models WHERE job_id = %s"

# Before the kill: what was rolled back then is written again later.
KEPT_BEFORE = """SELECT count(DISTINCT t.digest) FROM row_facts f JOIN jobs j ON j.id = f.job_id
    JOIN traces t ON t.project_id = j.project_id AND t.digest = f.trace_digest
    WHERE f.job_id = %s AND f.kind = 'rollout' AND f.role LIKE 'teacher%%' AND t.created_at < to_timestamp(%s)"""
TRAINED = "train.before_publish"

Victim = Literal["api", "worker", "stack"]


@dataclass
class Run:
    """A job of one project."""

    client: Stillhouse
    teacher: ScriptedLM
    paid_before: int
    job: CompileJob
    markers: Path

    def calls(self) -> list[str]:
        """Digests of the teacher's calls for this job, in the order in which they ended."""
        return [call.digest for call in self.teacher.calls[self.paid_before :]]

    def events(self) -> list[Event]:
        return list(self.client.compile_jobs.events.list(self.job.id, limit=100))


Holds = Callable[[Run], bool]


def at_once(_run: Run) -> bool:
    return True


def after_calls(run: Run) -> bool:
    return len(run.calls()) >= ENOUGH_CALLS


def trained(run: Run) -> bool:
    """The worker stands before it publishes its training."""
    return (run.markers / TRAINED).exists()


def said(text: str) -> Holds:
    """Once an event of the job begins so."""
    return lambda run: any(event.message.startswith(text) for event in run.events())


@dataclass(frozen=True)
class Moment:
    """`when` is waited for; then `point` is armed, and the worker that passes it dies; then the rest of the victim is killed. What is to be
    armed at once is so before the job is sent."""

    step: str
    victim: Victim
    when: Holds
    point: str | None = None

    def __str__(self) -> str:
        return f"{self.step}-{self.victim}"

    @property
    def ends_calls(self) -> bool:
        """Whether the worker that calls the teacher is killed."""
        return self.victim == "stack" or self.point in PAYING


MOMENTS = (
    Moment("validate", "worker", at_once, "validate.before_publish"),
    Moment("validate", "api", at_once),
    Moment("bootstrap", "stack", after_calls, "bootstrap.mid_work"),
    Moment("bootstrap", "worker", after_calls, "bootstrap.flushed"),
    Moment("prepare", "api", said("prepare opened")),
    Moment("prepare", "stack", at_once, "assemble.before_publish"),
    Moment("train", "worker", at_once, "train.mid_work"),
    Moment("train", "api", said("train opened")),
    Moment("evaluate", "stack", trained, "evaluate.mid_work"),
    Moment("evaluate", "api", said("train succeeded")),
    Moment("package", "worker", at_once, "package.before_publish"),
    Moment("package", "stack", at_once, "package.after_publish"),
)
CRASH_POINTS = [moment.point for moment in MOMENTS if moment.point]
PAYING = {"validate.before_publish", "bootstrap.mid_work", "bootstrap.flushed", "evaluate.mid_work"}
"""Points in the worker that calls the teacher."""


@dataclass(frozen=True)
class Findings:
    """What must not depend on kills."""

    traces: list[tuple[Any, ...]]
    rows: list[tuple[Any, ...]]
    keys: list[tuple[Any, ...]]
    published: tuple[int, int]
    """Artifacts and models."""
    told: Counter[str]
    calls: frozenset[str]


@dataclass
class Killable:
    """The server, and what the moments share."""

    server: ServerProcess
    teacher: ScriptedLM
    markers: Path
    keys: list[str] = field(default_factory=list)

    def client(self, number: int) -> Stillhouse:
        return Stillhouse(base_url=self.server.base_url, api_key=self.keys[number], max_retries=8)

    def make_keys(self, count: int) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("DATABASE_URL", self.server.setting("DATABASE_URL"))
            databases.forget_settings()
            self.keys = [make_key(f"moment-{number}", "test") for number in range(count)]
            databases.forget_settings()

    def submit(self, client: Stillhouse, moment: Moment | None = None) -> Run:
        before = len(self.teacher.calls)
        if moment is not None:
            self.prepare(moment)
        return Run(client, self.teacher, before, client.compile_jobs.create(idempotency_key="the-job", **JOB), self.markers)

    def prepare(self, moment: Moment) -> None:
        """So that the moment cannot pass before it is looked for."""
        if moment.when is after_calls:
            self.teacher.hold_from = self.teacher.asked + ENOUGH_CALLS
        elif moment.when is trained:
            (self.markers / f"{TRAINED}.go").unlink(missing_ok=True)  # earlier moments let it go on
            (self.markers / TRAINED).unlink()
        elif moment.when is at_once and moment.point:
            (self.markers / moment.point).unlink()

    def kill(self, run: Run, moment: Moment) -> None:
        wait_until(lambda: moment.when(run), f"{moment} does not come")
        if moment.point:
            marker = self.markers / moment.point
            if moment.when is not at_once:
                marker.unlink()
            self.teacher.hold_from = None
            (self.markers / f"{TRAINED}.go").touch()
            wait_until(marker.exists, f"{moment.point} is not reached")
        if moment.victim == "api":
            self.server.kill_part(API)
        elif moment.victim == "stack":
            self.server.kill_everything()

    def asked_for_nothing(self, run: Run) -> Callable[[], int]:
        """Of whoever has just been killed. What it returns counts, once the job is over, the calls so far that brought no trace."""
        asked_until, killed_at = time.monotonic(), time.time()

        def count() -> int:
            asked = sum(call.asked_at < asked_until for call in self.teacher.calls[run.paid_before :])
            with self._connect() as connection:
                ((kept,),) = connection.execute(KEPT_BEFORE.encode(), [run.job.id, killed_at]).fetchall()
            return asked - CALLS_OF_AN_EXAMPLE * int(kept)

        return count

    def findings(self, run: Run) -> Findings:
        with self._connect() as connection:

            def select(statement: str) -> list[tuple[Any, ...]]:
                return connection.execute(statement.encode(), [run.job.id]).fetchall()

            return Findings(
                traces=select(TRACES),
                rows=select(KEPT),
                keys=select(KEYS),
                published=(select(ARTIFACTS)[0][0], select(MODELS)[0][0]),
                told=Counter(event.message if event.type == "step" else event.type for event in run.events() if _is_said_once(event)),
                calls=frozenset(run.calls()),
            )

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        url = make_url(self.server.setting("DATABASE_URL")).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False))


def _is_said_once(event: Event) -> bool:
    """Progress and warnings come as often as they come."""
    return event.type in ("step", "status", "eval.result", "done")


@pytest.fixture(scope="module")
def killable(tiny_model: Path) -> Iterator[Killable]:
    with ScriptedLM(answer=teach, latency=LATENCY_SECONDS) as teacher, tempfile.TemporaryDirectory(prefix="stillhouse-kill-") as folder:
        markers = Path(folder, "markers")
        markers.mkdir()
        for point in (*CRASH_POINTS, TRAINED):
            (markers / point).touch()
        connections = {"teacher": {"base_url": teacher.url, "models": ["big"], "default_teacher": True}}
        environment = {
            "STILLHOUSE_CONFIG": str(Path(folder, "stillhouse.toml")),
            "STILLHOUSE_MODELS": str(tiny_model.parent),
            "STILLHOUSE_LMHOST__BASE_MODEL": f"local/{tiny_model.name}",
            "STILLHOUSE_CONNECTIONS": json.dumps(connections),
            "STILLHOUSE_CRASH_AT": ",".join(CRASH_POINTS),
            "STILLHOUSE_HOLD_AT": TRAINED,
            "STILLHOUSE_CRASH_MARKERS": str(markers),
            "OMP_NUM_THREADS": "1",
            **{f"STILLHOUSE_TIMERS__{name}": seconds for name, seconds in TIMERS.items()},
        }
        server = ServerProcess(Path(folder, "home"), environment)
        try:
            server.start()
            found = Killable(server, teacher, markers)
            found.make_keys(1 + len(MOMENTS))
            yield found
        finally:
            server.stop()


@pytest.fixture(scope="module")
def undisturbed(killable: Killable) -> Findings:
    """What the job leaves when nobody is killed."""
    with killable.client(0) as client:
        run = killable.submit(client)
        done = client.compile_jobs.wait(run.job.id, timeout=300)
        assert done.status == "succeeded", done.error
        assert len(run.calls()) == CALLS_OF_AN_EXAMPLE * (ROWS + HELD_OUT)
        found = killable.findings(run)
    assert found.published == (1, 1)
    assert len(found.traces) == ROWS + HELD_OUT
    return found


def test_two_moments_in_each_step_and_every_victim_as_often() -> None:
    assert Counter(moment.step for moment in MOMENTS) == dict.fromkeys(
        ("validate", "bootstrap", "prepare", "train", "evaluate", "package"), 2
    )
    assert Counter(moment.victim for moment in MOMENTS) == {"api": 4, "worker": 4, "stack": 4}
    assert set(CRASH_POINTS) <= POINTS


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_killed_at(moment: Moment, killable: Killable, undisturbed: Findings) -> None:
    with killable.client(1 + MOMENTS.index(moment)) as client:
        run = killable.submit(client, moment)
        killable.kill(run, moment)
        lost = killable.asked_for_nothing(run)
        if moment.victim == "stack":
            killable.server.start()

        done = client.compile_jobs.wait(run.job.id, timeout=300)
        assert done.status == "succeeded", done.error
        again = client.compile_jobs.create(idempotency_key="the-job", **JOB)
        assert again.id == run.job.id, "a caller that lost the first reply to a kill would have got a second job"
        assert killable.findings(run) == undisturbed
        events = run.events()
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        repeated = len(run.calls()) - len(set(run.calls()))
        print(f"{moment}: {repeated} of {len(set(run.calls()))} calls were paid twice")  # for `pytest -rP`
        assert repeated <= (lost() if moment.ends_calls else 0)
        assert done.artifact is not None
        wait_until(lambda: answers(f"{killable.server.base_url}/readyz"), "the server is not whole again")
