"""The examples of one slice under one role: what is stored of them, what is missing, what came in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from distill.catalog import scores, trace_retries, traces
from distill.catalog.scores import NewScore
from distill.catalog.trace_retries import Attempt
from distill.catalog.traces import NewTrace
from distill.db import Session
from distill.execute.context import CastInputs, Example, JobContext, as_inputs
from distill.pipeline import bootstrap
from distill.pipeline.bootstrap import Outcome, Stored
from distill.pipeline.costs import Asked, Spent, saved
from distill.pipeline.roles import Cast
from distill.spec import digest, metric_digest, retry_digest

Json = dict[str, Any]
NOT_STORED = ("not_stored", "Its rollout is not in the trace store, and this job calls no teacher")


@dataclass(frozen=True)
class Phase:
    """Rollouts that share their LMs' options: the first sample, and those after it that have a temperature of their own."""

    cast: Cast
    numbers: tuple[int, ...]

    @property
    def program_key(self) -> str:
        """What a warm runner knows the program by."""
        return digest(self.cast.runner_body())


@dataclass(frozen=True)
class Item:
    """One example, as the role's program takes it, and the digests and seeds of its rollouts by number."""

    example: Example
    io: CastInputs
    digests: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass
class Slice:
    """Traces and scores are kept by the digest of the rollout, so equal inputs share them, and as they are stored. `fresh` are the traces
    of this process with the personal data that were taken out of them: a metric that is asked again is to see what it saw.

    `names` has the digests under which traces are stored, where they are: those of retries have digests of their own. `retried` are the
    rollouts that failed in earlier jobs, and that this one runs again. `shared` has the rollouts of traces of other programs of the same
    code, by the digest that such a trace is stored under."""

    job: JobContext
    role: str
    examples: Sequence[Example]
    traces: dict[str, Json] = field(default_factory=dict)
    fresh: dict[str, Json] = field(default_factory=dict)
    scores: dict[tuple[str, str], Json] = field(default_factory=dict)
    undecided: dict[int, tuple[str, str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    retried: frozenset[str] = frozenset()
    shared: dict[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    paid_by_others: frozenset[str] = frozenset()

    @cached_property
    def cast(self) -> Cast:
        return self.job.cast(self.role)

    @property
    def stop_on_pass(self) -> bool:
        """Evaluation never stops at a pass: it takes one rollout, whatever comes of it."""
        return self.is_bootstrap and self.job.spec.rollouts.stop_on_pass

    @property
    def is_bootstrap(self) -> bool:
        return self.role.startswith("teacher:")

    @property
    def stored_only(self) -> bool:
        """No call is made: what is not stored is left out."""
        return self.job.spec.rollouts.stored_only and self.role.startswith("teacher")

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        rollouts = self.job.spec.rollouts
        numbers = range(rollouts.n if self.is_bootstrap else 1)
        grouped: dict[str, tuple[Cast, list[int]]] = {}
        for n in numbers:
            cast = self.cast.for_rollout(n, rollouts)
            grouped.setdefault(cast.lms_digest, (cast, []))[1].append(n)
        return tuple(Phase(cast, tuple(found)) for cast, found in grouped.values())

    @cached_property
    def items(self) -> tuple[Item, ...]:
        casts = [phase.cast for phase in self.phases for _ in phase.numbers]
        prompt_hash = self.job.plan.prompt_hash(self.cast)
        made = []
        for example in self.examples:
            io = as_inputs(self.cast.program, example)
            digests = tuple(cast.trace_digest(io.digest, n, prompt_hash) for n, cast in enumerate(casts))
            made.append(Item(example, io, digests, tuple(cast.seed(io.digest, n) for n, cast in enumerate(casts))))
        return tuple(made)

    @cached_property
    def metric_digest(self) -> str:
        return metric_digest(self.job.spec.metric)

    def find(self, s: Session, as_of: datetime | None = None) -> None:
        """Find out which traces stand for these examples, without reading them; see `trace_retries.standing`."""
        job, wanted = self.job, [digest for item in self.items for digest in item.digests]
        own = trace_retries.attempts(s, job.project_id, wanted)
        found = self._with_those_of_same_code(s, own, as_of)
        stands = {key: trace_retries.standing(each, job.job_id, as_of) for key, each in found.items()}
        if job.spec.rollouts.retry_failed:
            failed = {key for key, (first, *_) in own.items() if first.status == trace_retries.FAILED}
            self.retried = frozenset(key for key in failed if trace_retries.own(own[key], job.job_id) is None)
        lost = {key for key in self.retried if stands[key].status == trace_retries.FAILED}
        self.names = {key: one.digest for key, one in stands.items() if key not in lost}

    def _with_those_of_same_code(self, s: Session, own: Mapping[str, list[Attempt]], as_of: datetime | None) -> Mapping[str, list[Attempt]]:
        """After each rollout's own attempts, those of the other programs that run the same code, until one has not failed."""
        self.shared, merged = {}, {key: list(attempts) for key, attempts in own.items()}
        for program in self.job.same_code.get(self.cast.program_digest, ()):
            lacking = {name: key for name, key in self._digests_under(program.digest) if not _answered(merged.get(key, ()), as_of)}
            with_failed = program.failed and not self.job.spec.rollouts.retry_failed
            for name, attempts in trace_retries.attempts(s, self.job.project_id, lacking).items():
                taken = [each for each in attempts if with_failed or each.status != trace_retries.FAILED]
                self.shared.update({each.digest: lacking[name] for each in taken})
                merged.setdefault(lacking[name], []).extend(taken)
        return {key: attempts for key, attempts in merged.items() if attempts}

    def _digests_under(self, program: str) -> Iterator[tuple[str, str]]:
        """The digest of each rollout as another program has it, and as this one does."""
        casts = [phase.cast for phase in self.phases for _ in phase.numbers]
        prompt_hash = self.job.plan.prompt_hash(self.cast)
        for item in self.items:
            for n, cast in enumerate(casts):
                yield cast.trace_digest(item.io.digest, n, prompt_hash, program), item.digests[n]

    def stored_scores(self, s: Session) -> dict[tuple[str, str], Json]:
        """Of the traces that were found, by the digests of rollout and example."""
        pairs = [(key, item.example.digest) for item in self.items for key in item.digests if key in self.names]
        stored = [(self.names[key], example) for key, example in pairs]
        found = scores.lookup(s, self.job.project_id, self.metric_digest, stored, self.job.spec.filter.min_score)
        return {pair: found[name] for pair, name in zip(pairs, stored, strict=True) if name in found}

    def look_up(self, s: Session, as_of: datetime | None = None) -> None:
        """Read what is stored of these examples."""
        self.find(s, as_of)
        stored = traces.lookup(s, self.job.project_id, self.names.values())
        self.traces = {key: stored[name].body for key, name in self.names.items()}
        self.paid_by_others = frozenset(key for key, name in self.names.items() if stored[name].job_id != self.job.job_id)
        self.known = frozenset(self.traces)
        self.scores = self.stored_scores(s)
        if self.stored_only:
            self.undecided = {item.example.index: NOT_STORED for item in self.items if not self._stored_run(item)}

    def go_on_with(self, s: Session, others: Mapping[str, Json]) -> None:
        """Take these traces, by the digests that they are stored under, in place of this process's own, and the scores that are there of
        them and of what was judged here. Others may be forgotten, to be asked again in a later phase."""
        theirs = {key: others[name] for key, name in self.names.items() if name in others}
        self.traces.update(theirs)
        self.fresh = {key: body for key, body in self.fresh.items() if key not in theirs}
        self.scores = {pair: score for pair, score in self.scores.items() if pair[0] not in theirs}
        self.scores.update({pair: score for pair, score in self.stored_scores(s).items() if pair in self.scores or pair[0] in theirs})

    def forget_failed_scores(self) -> None:
        """So that the metric is asked again."""
        self.scores = {pair: score for pair, score in self.scores.items() if score["status"] != "failed"}

    def stored(self, item: Item, n: int) -> Stored:
        key = item.digests[n]
        return Stored(n, self.traces.get(key), self.scores.get((key, item.example.digest)))

    def statuses(self, item: Item) -> list[str | None]:
        """Of an example's rollouts by number; None for one that has no trace yet."""
        found = [self.traces.get(key) for key in item.digests]
        return [None if trace is None else trace["status"] for trace in found]

    def pending(self, phase: Phase) -> list[Item]:
        """The examples that still lack something in a phase. Of equal inputs only the first: the others wait for its trace."""
        seen: set[str] = set()
        found = []
        for item in self.items:
            if item.example.index in self.undecided or self._is_done(item, phase) or item.io.digest in seen:
                continue
            seen.add(item.io.digest)
            found.append(item)
        return found

    def _is_done(self, item: Item, phase: Phase) -> bool:
        numbers = self._numbers(item, phase)
        if not numbers:
            return True
        upto = [self.stored(item, n) for n in range(numbers[-1] + 1)]
        return bootstrap.example_is_done(upto, scored=True, stop_on_pass=self.stop_on_pass)

    def outcome(self, item: Item) -> Outcome | None:
        """What became of an example; None while it is not over."""
        trouble = self.undecided.get(item.example.index)
        if trouble is not None:
            return bootstrap.not_run(*trouble)
        if not self._is_done(item, self.phases[-1]):
            return None
        return bootstrap.outcome([self.stored(item, n) for n in range(len(item.digests))])

    def _numbers(self, item: Item, phase: Phase) -> tuple[int, ...]:
        """The rollouts of a phase that an example may have."""
        return tuple(n for n in phase.numbers if n < self._stored_run(item)) if self.stored_only else phase.numbers

    def _stored_run(self, item: Item) -> int:
        """How many rollouts of an example are stored, from the first on without a gap."""
        return next((n for n, key in enumerate(item.digests) if key not in self.traces), len(item.digests))

    def request(self, item: Item, phase: Phase) -> Json:
        """An example of the runner's `rollouts` op. Seeds come from what is asked, so a repeated call asks for the same sample."""
        rollouts = []
        for n in self._numbers(item, phase):
            stored = self.stored(item, n)
            trace = self.fresh.get(item.digests[n], stored.trace)
            rollouts.append({"n": n, "seed": item.seeds[n], "trace": trace, "score": stored.score})
        return {"index": item.example.index, "inputs": item.io.inputs, "labels": item.io.labels, "rollouts": rollouts}

    def take_trace(self, item: Item, n: int, body: Json, source: str = "runner") -> NewTrace:
        """Keep a new trace; returns its row for the store."""
        key = item.digests[n]
        if self.job.scrub is not None:
            self.fresh[key] = body
        body = self.traces[key] = self.job.scrubbed_trace(body)
        # A client may send one although that of another job stands by now: it was paid for, and is this job's.
        name = self.names[key] = self._own_name(key) if key in self.retried else self.names.get(key, key)
        cast = next(phase.cast for phase in self.phases if n in phase.numbers)
        return NewTrace(
            project_id=self.job.project_id,
            digest=name,
            program_digest=cast.program_digest,
            lms_digest=cast.lms_digest,
            inputs_digest=item.io.digest,
            prompt_hash=self.job.plan.prompt_hash(self.cast),
            rollout=n,
            body=body,
            source=source,
            dspy_version=self.job.plan.dspy_version,
            job_id=None if source == "import" else self.job.job_id,
            retry_of=None if name == key or name in self.shared else key,
        )

    @cached_property
    def _seeds(self) -> dict[str, int]:
        return {digest: seed for item in self.items for digest, seed in zip(item.digests, item.seeds, strict=True)}

    def seeds_of(self, rows: Iterable[NewTrace]) -> list[int]:
        """Those of the traces that are this slice's: runners name a rollout by its seed."""
        rollouts = [row.retry_of or self.shared.get(row.digest, row.digest) for row in rows]
        return [self._seeds[key] for key in rollouts if key in self._seeds]

    def _own_name(self, key: str) -> str:
        """What a trace is stored under that this job makes."""
        return retry_digest(key, self.job.job_id) if key in self.retried else key

    def take_score(self, item: Item, n: int, score: Json) -> NewScore:
        """Keep a new score; returns its row for the store."""
        key = item.digests[n]
        score = self.scores[key, item.example.digest] = self.job.scrubbed(score)
        return NewScore(self.job.project_id, self.names.get(key) or self._own_name(key), self.metric_digest, item.example.digest, score)

    def score_without_answer(self, item: Item, n: int, status: str) -> NewScore:
        """Keep the score of a rollout that gave no answer: 0 under every metric."""
        score = {"value": 0.0, "passed": False, "status": "ok", "feedback": None, "error": f"the rollout ended {status}"}
        return self.take_score(item, n, score)

    def score_those_without_answer(self) -> list[NewScore]:
        """The scores that stored rollouts without an answer lack under this job's metric."""
        found = [(item, self.stored(item, n)) for item in self.items for n in range(len(item.digests))]
        unscored = [(item, each.n, each.trace["status"]) for item, each in found if each.trace is not None and each.score is None]
        return [self.score_without_answer(item, n, status) for item, n, status in unscored if status != "ok"]

    def take_death(self, item: Item, phase: Phase, how: str) -> NewTrace | NewScore:
        """What a rollout leaves that ends its process: a failed trace; where the trace was there already, it was the metric, whose score
        has failed."""
        rollouts = self.request(item, phase)["rollouts"]
        first = next(each for each in rollouts if each["trace"] is None or each["score"] is None)
        message = f"killed the program's process: it {how}"
        if first["trace"] is not None:
            score = {"value": None, "passed": False, "status": "failed", "feedback": None, "error": f"ProcessDied: {message}"}
            return self.take_score(item, first["n"], score)
        error = {"type": "ProcessDied", "message": message, "traceback": ""}
        # What it asked before is in the job's usage; what was answered died with the process.
        none = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "usd": 0.0, "models": {}}
        body: Json = {"status": "failed", "inputs": item.io.inputs, "outputs": None, "calls": [], "error": error, "usage": none}
        return self.take_trace(item, first["n"], {**body, "foreign_calls": 0, "seconds": 0.0})

    def saved(self, slots: Mapping[str, Asked]) -> dict[str, Spent]:
        """What the traces that an earlier job paid for would have cost again, by model."""
        reused = {item.digests[stored.n]: stored.trace for item, stored in self.used() if item.digests[stored.n] in self.paid_by_others}
        return saved([trace for trace in reused.values() if trace is not None], slots.values())

    def used(self) -> Iterator[tuple[Item, Stored]]:
        """The rollouts that count for this job, example by example: up to the first pass where that ends an example."""
        for item in self.items:
            for n in range(len(item.digests)):
                stored = self.stored(item, n)
                if stored.trace is None:
                    break
                yield item, stored
                if self.stop_on_pass and bootstrap.has_passed(stored.score):
                    break


def _answered(attempts: Iterable[Attempt], as_of: datetime | None) -> bool:
    return any(each.status != trace_retries.FAILED and (as_of is None or each.created_at <= as_of) for each in attempts)
