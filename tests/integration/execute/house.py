"""A whole house in one process: real PostgreSQL, relay and runners; scripted LMs; a trainer and an LM host that only pretend."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import pytest
from sqlalchemy import text

from distill.catalog import bundles, connections, datasets, programs, projects
from distill.catalog.models import Connection
from distill.db import unit_of_work
from distill.execute.hooks import crash_point
from distill.execute.lm_host import LmHostClient
from distill.execute.placements import Agent
from distill.execute.ports import Ports
from distill.execute.run import Shift, run_queue
from distill.execute.steps import STEPS
from distill.jobs import bundle_use, claims, repository, service
from distill.jobs.claims import WorkerInfo
from distill.jobs.models import Job
from distill.jobs.status import JobStatus
from distill.relay import Relay, RelayLimits, Replies, replies
from distill.rollouts import RunnerPool
from distill.sandbox import Choice, Limits
from distill.settings import ConnectionSettings, DeviceSettings, Settings, get_settings
from distill.spec import read_spec
from distill.storage import BlobStore, FolderStore, open_store
from distill.trainers.base import (
    CannotCount,
    MaxLength,
    Room,
    RowTokens,
    TokenCounts,
    TrainCallbacks,
    Trainer,
    Training,
    TrainOutcome,
    TrainRequest,
)
from stillhouse_programs.spec import parse_spec
from tests.support.scripted_lm import Answer, Ask, ScriptedLM
from workers.tasks import capabilities

QUEUES = ("rollouts", "light", "train")
CATEGORIES = ("billing", "technical", "account")
_names = itertools.count()


def field_of(name: str, role: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "role": role, **({"schema": dict(schema)} if schema else {})}


SUPPORT: dict[str, Any] = {
    "predictors": [
        {
            "name": "classify",
            "lm": "student",
            "signature": {
                "instructions": "Route a customer message to one team.",
                "fields": [field_of("message", "input"), field_of("category", "output", {"type": "string", "enum": list(CATEGORIES)})],
            },
        },
        {
            "name": "reply",
            "lm": "student",
            "signature": {
                "instructions": "Answer the customer.",
                "fields": [field_of("message", "input"), field_of("category", "input"), field_of("answer", "output")],
            },
        },
    ],
    "steps": [
        {"id": "c", "predictor": "classify", "args": {"message": {"from": "input.message"}}},
        {
            "id": "r",
            "predictor": "reply",
            "args": {"message": {"from": "input.message"}, "category": {"from": "c.category"}},
        },
    ],
    "outputs": {"category": {"from": "c.category"}, "answer": {"from": "r.answer"}},
}


def rows(n: int) -> list[dict[str, str]]:
    """Message 7 is about category 7 mod 3, and says so."""
    return [{"message": f"Message {i} about {CATEGORIES[i % 3]}", "category": CATEGORIES[i % 3]} for i in range(n)]


def knows(ask: Ask) -> dict[str, str]:
    """A teacher that reads the category off the message."""
    said = ask.inputs["message"].split()[-1]
    return {"category": said} if "category" in ask.outputs else {"answer": f"Team {said} will help."}


def guesses(ask: Ask) -> Answer:
    """A student that always says `account`, until it is asked as a fine-tuned model."""
    if ask.model.startswith(("sh-", "ft:")):
        return knows(ask)
    return {"category": "account"} if "category" in ask.outputs else {"answer": "Hm."}


class PretendTraining:
    """Is under way at the first look, and done at the second."""

    def __init__(self, outcome: TrainOutcome) -> None:
        self._outcome = outcome
        self._looks = 0

    def wait(self, timeout: float | None = None) -> TrainOutcome | None:
        self._looks += 1
        return self._outcome if self._looks > 1 else None

    def stop(self, grace: float) -> None:
        return


def _words(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(str(message["content"]).split()) for message in messages)


@dataclass
class PretendTrainer:
    """Trains in no time: the weights are the digests of the rows."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    unusable: str | None = None
    """Why the base model cannot be used."""
    base: str = "sha256:pretend"
    epochs: int = 2  # which it chooses
    free: int = 1  # byte on its device, of which it needs one

    def base_digest(self, base_model: str) -> str | None:
        return self.base

    def room(self, base_model: str, longest_tokens: int) -> Room | None:
        return Room(1, self.free)

    def resolve(self, base_model: str, options: Mapping[str, Any], rows: Any, start: Any = None) -> dict[str, Any]:
        return {**options, "n_epochs": self.epochs if options["n_epochs"] == "auto" else options["n_epochs"]}

    def count(self, base_model: str, max_seq_length: MaxLength, rows: Sequence[Mapping[str, Any]]) -> TokenCounts:
        """A token a word."""
        if self.unusable is not None:
            raise CannotCount("base_model_unusable", self.unusable)
        counts = tuple(RowTokens(_words(row["prompt"]), _words(row["completion"])) for row in rows)
        return TokenCounts(4096 if max_seq_length == "auto" else max_seq_length, counts)

    def rest(self) -> None:
        return

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        job = json.loads((request.folder / "job.json").read_text())
        lines = (request.folder / "rows.jsonl").read_text().splitlines()
        start = {place.name: place.read_text() for place in (request.folder / job["start_from"]).iterdir()} if "start_from" in job else {}
        self.jobs.append({**job, "texts": [json.loads(line) for line in lines], "start": start})
        (request.folder / "log.txt").write_text(f"trained {len(lines)} rows\n")
        out = request.folder / "out"
        out.mkdir()
        (out / "adapter_model.safetensors").write_text("\n".join(json.loads(line)["digest"] for line in lines))
        (out / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": job["base_model"]}))
        callbacks.on_curve({"step": 1, "epoch": 1.0, "loss": 0.5, "learning_rate": 0.1, "tokens_per_second": 9.0, "at": 0.0})
        result = {"steps": 1, "base_model_digest": self.base, "options": self.resolve(job["base_model"], job["options"], None)}
        return PretendTraining(TrainOutcome("succeeded", 0, result=result))


@dataclass
class PretendHost:
    """An LM host's agent routes; the answers of the chat route come from the scripted LM."""

    loaded: dict[str, Path] = field(default_factory=dict)
    asleep: bool = False
    deaf: bool = False
    """It loads LoRA adapters and goes on answering as the base model."""

    def models(self) -> frozenset[str]:
        return frozenset(self.loaded)

    def load(self, name: str, folder: Path) -> None:
        assert (folder / "adapter_model.safetensors").is_file()
        self.loaded[name] = folder

    def unload(self, name: str) -> None:
        self.loaded.pop(name, None)

    def answer(self, model: str, messages: list[dict[str, Any]], max_tokens: int) -> str:
        return "base" if self.deaf else model

    def sleep(self) -> None:
        self.loaded.clear()
        self.asleep = True

    def wake_up(self) -> None:
        self.asleep = False

    def is_sleeping(self) -> bool:
        return self.asleep


@dataclass
class House:
    """Use it as a block. `trainer` may be replaced before the first job is run."""

    folder: Path
    teacher: ScriptedLM
    student: ScriptedLM
    trainer: Trainer = field(default_factory=PretendTrainer)
    host: PretendHost = field(default_factory=PretendHost)
    base_model: str = "tiny"
    device: str | None = None
    on_train: Literal["auto", "share", "pause"] = "pause"
    project: str = "default"
    call_seconds: float = 60.0
    """How long the relay tries one LM call: longer than this machine may stand still."""
    pause_seconds: float = 0.05
    """After which a call is tried again. Longer than `call_seconds`, it is tried once."""
    breaker_seconds: float = 60.0
    """How long nothing may succeed until a connection waits; a host that is plain about it makes it wait at once."""
    python: str = sys.executable
    """The interpreter that runs programs."""
    references: tuple[str, ...] = ()
    """The packages that programs may name as code."""
    sandbox: Choice | None = None
    """What runners start in; the best that holds here unless given."""
    limits: Limits | None = None
    """Of runners."""
    store: BlobStore = field(init=False)
    bucket: BlobStore | None = None
    """Where blobs are, if not in a folder."""
    teacher_key_env: str | None = None
    """The variable with the teacher's key."""

    def __enter__(self) -> House:
        self.store = self.bucket or FolderStore(self.folder / "blobs", passing=crash_point)
        self.connections = {
            "teacher": ConnectionSettings(
                base_url=self.teacher.url, models=["big"], default_teacher=True, api_key_env=self.teacher_key_env
            ),
            "house": ConnectionSettings(
                base_url=self.student.url,
                models=[self.base_model],
                default_student=True,
                supports=["structured_outputs", "lora", "tools"],
                trainer="local",
                device=self.device,
            ),
        }
        on_devices = {self.device: DeviceSettings(on_train=self.on_train)} if self.device else {}
        with unit_of_work() as s:
            connections.sync(s, Settings(connections=self.connections, devices=on_devices))
            self.project_id = projects.ensure(s, self.project).id
            self.house: Connection | None = connections.find(s, "house")
        assert self.house is not None
        self.worker = WorkerInfo(f"worker-{next(_names)}", capabilities({"default": self.python}))
        self.open()
        return self

    def open(self, *, keeps_replies: bool = True) -> None:
        """Start what a worker process has; `close` and `open` are its restart."""
        calls = get_settings().limits.rollout_calls
        limits = RelayLimits(total_seconds=self.call_seconds, rollout_calls=calls)
        limits = replace(limits, first_pause_seconds=self.pause_seconds, longest_pause_seconds=max(self.pause_seconds, 0.2))
        limits = replace(limits, breaker_seconds=self.breaker_seconds, rest_seconds=self.breaker_seconds)
        relay = Relay(limits, get_settings().egress.hosts, _replies() if keeps_replies else None)
        runners = RunnerPool(
            relay.start(),
            {"default": self.python},
            sandbox=self.sandbox,
            limits=self.limits,
            references=self.references,
            bundles=bundle_use.source(self.store, accept=True),
        )
        self.shift = Shift()
        self.ports = Ports(self.store, relay, runners, {"local": self.trainer}, self.folder / "work")
        assert self.house is not None
        self.agent = Agent(self.house, cast("LmHostClient", self.host), self.store, self.folder / "lora", "agent-1")

    def close(self) -> None:
        self.shift.stop()
        self.ports.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ jobs

    def send(self, document: Mapping[str, Any]) -> str:
        """Store a bundle; returns the digest by which its code is named."""
        bundle = bundles.read_bundle(document)
        with unit_of_work() as s:
            bundles.ensure(s, self.store, self.project_id, None, bundle, self.store.put(json.dumps(document).encode()))
        return bundle.digest

    def submit(
        self,
        trainset: list[dict[str, Any]] | str,
        program: Mapping[str, Any] = SUPPORT,
        valset: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> str:
        """Store a job on rows, or on a dataset by its id; `more` are fields of the compile spec."""
        with unit_of_work() as s:
            stored = programs.ensure(s, self.project_id, None, parse_spec(dict(program)), name="support")
            rows = trainset if isinstance(trainset, str) else datasets.create(s, self.store, self.project_id, trainset).id
            raw = {"program_id": stored.id, "trainset": rows, **more}
            if valset is not None:
                raw["valset"] = datasets.create(s, self.store, self.project_id, valset).id
            raw.setdefault("metric", {"type": "exact_match", "fields": ["category"]})
            return service.submit(s, self.project_id, None, read_spec(raw)).id

    def run(self, job_id: str, seconds: float = 60.0, until: Callable[[Job], bool] | None = None) -> Job:
        """Work until the job is over (or `until` holds); fails the test when it takes too long."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            job = self.job(job_id)
            if JobStatus(job.status).is_terminal or (until is not None and until(job)):
                return job
            assert time.monotonic() < deadline, f"job {job_id} is {job.status} in step {job.step} after {seconds} s"
            done = sum(run_queue(queue, self.worker, self.ports, self.shift, STEPS, seconds) for queue in QUEUES)
            self.agent.tick()
            if not done:
                pause.wait(0.02)

    def succeed(self, job_id: str) -> Job:
        """Run a job that has to end well."""
        job = self.run(job_id)
        assert job.status == "succeeded", job.error
        return job

    def compile(self, trainset: list[dict[str, Any]] | str, **more: Any) -> Job:
        return self.run(self.submit(trainset, **more))

    def job(self, job_id: str) -> Job:
        with unit_of_work() as s:
            job = repository.by_id(s, job_id)
            s.expunge(job)
            return job


def _replies() -> Replies | None:
    """Redis is there, however long the machine takes over it: a server would do without it after a quarter of a second."""
    with patch.object(replies, "PATIENCE_SECONDS", 60.0):
        return Replies.of(get_settings())


def reap() -> int:
    """Whoever holds a lease is gone: it has run out, and is found as the dispatcher finds it. How many there were."""
    ended = 0
    with pytest.MonkeyPatch.context() as patched:
        for name, seconds in (("LEASE", "0.1"), ("REAP_GRACE", "0")):  # the database has been up for longer: leases may be reaped
            patched.setenv(f"STILLHOUSE_TIMERS__{name}_SECONDS", seconds)
        get_settings.cache_clear()
        with unit_of_work() as s:
            s.execute(text("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE status = 'leased'"))
        with unit_of_work() as s:
            while claims.reap(s) is not None:
                ended += 1
    get_settings.cache_clear()
    return ended


@contextmanager
def configured(folder: Path, settings: str, teacher: ScriptedLM, student: ScriptedLM, **options: Any) -> Iterator[House]:
    """A house whose server reads `settings`, with the addresses of both LMs in them, and has the blob store of its settings."""
    (folder / "stillhouse.toml").write_text(settings.format(teacher=teacher.url, student=student.url), encoding="utf-8")
    get_settings.cache_clear()
    with House(folder, teacher, student, bucket=open_store(get_settings()), **options) as opened:
        yield opened


@contextmanager
def at_work(house: House) -> Iterator[None]:
    """The house's worker, beside the test."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            done = sum(run_queue(queue, house.worker, house.ports, house.shift, STEPS, 60) for queue in QUEUES)
            house.agent.tick()
            if not done:
                over.wait(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
