"""Bootstrap and evaluate: one executor. Look up the trace, else run it; look up the score, else ask the metric.

Traces and scores are the project's: they are written as they come, without a fence, also when the job is cancelled, since they were
paid for. Only the item's own facts and counts are fenced.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from distill.catalog import row_facts, scores, traces, usage
from distill.catalog.row_facts import NewFact
from distill.catalog.scores import NewScore
from distill.catalog.traces import NewTrace
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow, label_rollouts, rollout_facts
from distill.execute.batches import batches
from distill.execute.buffer import Buffer
from distill.execute.context import JobContext
from distill.execute.halting import halting
from distill.execute.hooks import crash_point
from distill.execute.ports import Ports
from distill.execute.reach import Reach
from distill.execute.rollout_slice import Item, Json, Phase, Slice
from distill.execute.spending import Spending, usage_row
from distill.execute.work import Troubled, Work
from distill.jobs.status import Step
from distill.pipeline import bootstrap
from distill.pipeline.costs import priced
from distill.pipeline.refusals import Reason, Refused
from distill.pipeline.roles import DEMOS_DROPPED, DEMOS_KEPT, INCUMBENT, teacher_number
from distill.rollouts import Runner, RunnerError
from distill.settings import get_settings

ROUNDS = 3
PAUSE_SECONDS = 2.0

HOPELESS = frozenset({"time_limit", "too_large", "bad_request"})
"""Trouble of one example that another try would meet again: it stays undecided and the others go on."""
ONE_BY_ONE = frozenset({"timeout", "unavailable", "bad_answer"})
"""Trouble that may be an example's own: a host that answers the others, and never this one."""
REFUSED = frozenset({"connection_unauthorized", "model_not_found", "budget_exhausted", "unknown_slot"})
"""Trouble that every further call would meet, until somebody changes something."""


def run(work: Work, ports: Ports) -> None:
    """Work off one slice. Raises Refused, Troubled, Stopped."""
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
        examples = job.examples(ports.store, job.side_of(work.claim.kind), work.claim.payload["start"], work.claim.payload["stop"])
    if job.taught_by_labels(work.claim.kind):
        label_rollouts.run(work, ports, job, examples)
        return
    piece = Slice(job, work.claim.kind, examples)
    _publish(work, piece, fill(work, ports, job, [piece]))


def fill(work: Work, ports: Ports, job: JobContext, pieces: Sequence[Slice]) -> Spending:
    """Make what slices lack, and store it; they ask the same LMs, in one reckoning. Raises Refused, Troubled, Stopped."""
    with unit_of_work() as s:
        for piece in pieces:
            piece.look_up(s)
        spending = Spending.begin(s, ports.relay, work.claim, job, pieces[0].cast, calls=not pieces[0].stored_only)
    reach = Reach(work, ports.relay, spending.grant.targets)
    with spending, reach, Buffer[NewTrace | NewScore](lambda batch: _flush(work, batch)) as buffer:
        for piece in pieces:
            for phase in piece.phases:
                _run_phase(_Running(work, ports, piece, phase, spending, reach, buffer))
    return spending


def _flush(work: Work, batch: list[NewTrace | NewScore]) -> None:
    with unit_of_work() as s:
        traces.store(s, [row for row in batch if isinstance(row, NewTrace)])
        scores.store(s, [row for row in batch if isinstance(row, NewScore)])
    crash_point(f"{work.claim.step}.flushed")


class _Running:
    """One phase of a slice on one runner."""

    def __init__(
        self,
        work: Work,
        ports: Ports,
        piece: Slice,
        phase: Phase,
        spending: Spending,
        reach: Reach,
        buffer: Buffer[NewTrace | NewScore],
    ) -> None:
        self.work, self.ports, self.piece, self.phase = work, ports, piece, phase
        self.spending, self.reach, self.buffer = spending, reach, buffer
        self.by_index = {item.example.index: item for item in piece.items}
        self.troubles: dict[int, tuple[str, str]] = {}

    def take(self, event: Json) -> None:
        """Keep what an event tells."""
        if event["event"] == "trace":
            item = self.by_index[event["index"]]
            self.buffer.add(self.piece.take_trace(item, event["n"], priced(event["trace"], self.spending.slots)))
            self.reach.look()
            crash_point(f"{self.work.claim.step}.mid_work")
        elif event["event"] == "score":
            self.buffer.add(self.piece.take_score(self.by_index[event["index"]], event["n"], event["score"]))
        elif event["event"] == "infra":
            self.troubles[event["index"]] = (event["code"], event["message"])
        elif event["event"] == "example_done":
            self.work.progress(**_progress(self.piece))

    def ask(self, runner: Runner, batch: list[Json]) -> None:
        spec, limit = self.piece.job.spec, get_settings().limits.example_seconds
        body = {
            "program_key": self.phase.program_key,
            "token": self.spending.grant.token,
            "width": self.work.claim.width,
            "time_limit_seconds": limit,
            "metric": spec.metric.model_dump(mode="json"),
            "min_score": spec.filter.min_score,
            "stop_on_pass": self.piece.stop_on_pass,
            "examples": batch,
        }
        for event in runner.request("rollouts", silence_seconds=limit + 60, **body):
            self.take(event)
            if event["event"] == "example_done":
                self.judge_first_examples()

    def judge_first_examples(self) -> None:
        """Raises Refused when the first examples say that the others are not worth their calls."""
        if self.piece.stored_only or not (self.piece.is_bootstrap and self.work.claim.payload.get("whole")):
            return  # no call is at stake
        job, total = self.piece.job, len(self.piece.items)
        outcomes = [self.piece.outcome(item) for item in self.piece.items]
        reason = bootstrap.judge(outcomes, job.spec.smoke_test, _teacher_name(self.piece), job.plan.train_examples - total)
        if reason is not None:
            _keep_for_readers(self.piece)
            raise Refused(reason)


def _run_phase(running: _Running) -> None:
    """Rounds until nothing is pending: what met trouble is put back in the queue of this item, after a pause."""
    running.judge_first_examples()
    bad_rounds = 0
    while pending := running.piece.pending(running.phase):
        running.troubles.clear()
        _round(running, pending)
        _settle_troubles(running)
        running.judge_first_examples()
        if running.troubles:
            bad_rounds += 1
            _give_up_after(running, bad_rounds)
            running.work.wait(PAUSE_SECONDS * bad_rounds)
        else:
            bad_rounds = 0


def _round(running: _Running, pending: list[Item]) -> None:
    job = running.piece.job
    with running.ports.runners.runner(job.project_id, job.job_id) as runner, halting(running.work, runner):
        try:
            runner.ensure_open(running.phase.program_key, **running.phase.cast.runner_body())
            requests = (running.piece.request(item, running.phase) for item in pending)
            for batch in batches(requests, lambda request: request):
                running.work.check()
                running.ask(runner, batch)
        except RunnerError as error:
            raise Troubled(f"runner_{error.code}", error.message) from error


def _settle_troubles(running: _Running) -> None:
    """Take out of the troubles what no further round would mend. Raises Stopped where a connection has to wait."""
    running.work.check()
    if running.troubles:
        running.reach.check()
    for index, (code, message) in list(running.troubles.items()):
        if code in REFUSED and not _may_be_loading(running.piece, code):
            raise Refused(_refusal(running.piece, code, message))
        if code in HOPELESS:
            running.piece.undecided[index] = running.troubles.pop(index)


def _may_be_loading(piece: Slice, code: str) -> bool:
    """An LM host that has just started does not know our models yet: its agent is about to load them."""
    return piece.role in ("compiled", INCUMBENT) and code == "model_not_found"


def _refusal(piece: Slice, code: str, message: str) -> Reason:
    step = "bootstrap" if ":" in piece.role else "evaluate"
    if code == "budget_exhausted":
        spent = f"The budget of {piece.job.spec.budget.max_calls} LM calls is spent."
        text = f"{spent} What was paid for is kept: a job with a larger budget reuses it."
        return Reason(code, text, step, "budget.max_calls")
    students = ("baseline", "baseline_constrained", "compiled", DEMOS_KEPT, DEMOS_DROPPED)
    param = "evaluate.incumbent" if piece.role == INCUMBENT else "lms" if piece.role in students else "teacher"
    return Reason(code, f"The LM host refused the calls of {piece.role}: {message}", step, param)


def _give_up_after(running: _Running, bad_rounds: int) -> None:
    """Raises Troubled when the rounds are used up."""
    if bad_rounds < ROUNDS:
        return
    if not _only_theirs(running):
        running.reach.fail_try()
        code, message = next(iter(running.troubles.values()))
        raise Troubled(code, f"{len(running.troubles)} examples could not be run: {message}")
    running.piece.undecided.update(running.troubles)


def _only_theirs(running: _Running) -> bool:
    """Whether the trouble is that of a few examples: then they are left out, instead of holding up all the others for ever."""
    few = len(running.troubles) <= max(1, len(running.piece.items) // 10)
    others = sum(running.piece.outcome(item) is not None for item in running.piece.items if item.example.index not in running.troubles)
    return few and others > len(running.troubles) and all(code in ONE_BY_ONE for code, _ in running.troubles.values())


def _progress(piece: Slice) -> dict[str, Any]:
    done = sum(piece.stored(item, 0).trace is not None for item in piece.items)
    return {"done": done, "total": len(piece.items), "start": piece.items[0].example.index if piece.items else 0}


# ------------------------------------------------------------------ publish


def _publish(work: Work, piece: Slice, spending: Spending) -> None:
    rows, counts = facts_of(piece)
    spent = spending.counts()
    counts.update(spent, teacher_calls=spent["calls"] if piece.role.startswith("teacher") else 0)
    closed = flow.after_bootstrap if work.claim.step is Step.BOOTSTRAP else flow.after_evaluate
    saved = [usage_row(work.claim, "saved", piece.role, model, spent) for model, spent in piece.saved(spending.slots).items()]

    def before(s: Session) -> None:
        row_facts.store(s, rows)
        usage.record(s, saved)

    work.publish(counts=counts, before=before, on_closed=closed)


_COUNTED = ("ok", "failed", "unparsable", "metric_failed", "inconclusive", "passed", "reused", "undecided")


def facts_of(piece: Slice) -> tuple[list[NewFact], Counter[str]]:
    """The rows of this slice, and its counts: rollouts by status; examples that passed, were reused, failed or stay undecided."""
    rows: list[NewFact] = []
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    passed: set[int] = set()
    fresh: set[int] = set()
    for item, stored in piece.used():
        assert stored.trace is not None  # noqa: S101 - for the type checker; `used` yields no other
        key, index = item.digests[stored.n], item.example.index
        reused = key in piece.known
        rows.append(
            rollout_facts.rollout_fact(piece.job.job_id, piece.role, index, stored.n, key, stored.trace, stored.score, reused=reused)
        )
        counts[stored.trace["status"]] += 1
        if stored.score is not None and stored.score["status"] != "ok":
            counts["metric_failed" if stored.score["status"] == "failed" else "inconclusive"] += 1
        passed |= {index} if bootstrap.has_passed(stored.score) else set()
        fresh |= set() if reused else {index}
    decided = Counter(row.example_index for row in rows)
    for index, why in piece.undecided.items():
        rows.append(rollout_facts.undecided_fact(piece.job.job_id, piece.role, index, decided[index], *why))
    untouched = {item.example.index for item in piece.items} - fresh - piece.undecided.keys()
    counts.update(passed=len(passed), undecided=len(piece.undecided), reused=len(untouched))
    counts["failed_examples"] = sum(bootstrap.has_failed(piece.statuses(item)) for item in piece.items)
    return rows, counts


def _teacher_name(piece: Slice) -> str:
    """`the teacher`; of several, which one."""
    return "the teacher" if len(piece.job.spec.teachers) == 1 else f"teacher {teacher_number(piece.role) + 1}"


def _keep_for_readers(piece: Slice) -> None:
    """What a slice saw, before its job stops: nothing is published any more."""
    rows, _ = facts_of(piece)
    with unit_of_work() as s:
        row_facts.store(s, rows)
