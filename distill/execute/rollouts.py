"""Bootstrap and evaluate: one executor. Look up the trace, else run it; look up the score, else ask the metric.

Traces and scores are the project's: they are written as they come, without a fence, also when the job is cancelled, since they were
paid for. Only the item's own facts and counts are fenced.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from distill.catalog import row_facts, usage
from distill.catalog.row_facts import NewFact
from distill.catalog.scores import NewScore
from distill.catalog.traces import NewTrace
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow, label_rollouts, leftovers, rollout_facts, telling
from distill.execute.batches import batches
from distill.execute.buffer import Buffer
from distill.execute.context import JobContext
from distill.execute.halting import halting
from distill.execute.hooks import crash_point
from distill.execute.keeping import Keeping
from distill.execute.ports import Ports
from distill.execute.reach import Reach
from distill.execute.rollout_slice import Item, Json, Phase, Slice
from distill.execute.spending import Spending
from distill.execute.suspects import MOST_CULPRITS, Suspects
from distill.execute.work import Troubled, Work
from distill.jobs.status import Step
from distill.pipeline import bootstrap
from distill.pipeline.costs import priced, slots_of
from distill.pipeline.refusals import Reason, Refused
from distill.pipeline.roles import DEMOS_DROPPED, DEMOS_KEPT, INCUMBENT, teacher_number
from distill.rollouts import Cause, Runner, RunnerDied, RunnerError
from distill.settings import get_settings

log = structlog.get_logger(__name__)

ROUNDS = 3
PAUSE_SECONDS = 2.0

HOPELESS = frozenset({"time_limit", "too_large", "not_json", "bad_request", "memory", "runner_fault", "too_many_calls", "unknown_slot"})
"""Trouble of one example that another try would meet again: it stays undecided and the others go on."""
NO_FACT: Mapping[Cause, str] = {"silent": "time_limit", "out_of_memory": "memory"}
"""Ways to end a process that say something about this machine too, and the codes of such examples."""
REFUSED = frozenset({"connection_unauthorized", "address_not_allowed", "model_not_found"})
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
            if job.spec.rollouts.retry_failed:
                piece.forget_failed_scores()
        spending = Spending.begin(s, ports.relay, work, pieces[0].cast, calls=not pieces[0].stored_only)
    reach = Reach(work, ports.relay, spending.grant.targets)
    keeping = Keeping(work, ports, spending, pieces)
    with spending, reach, Buffer[NewTrace | NewScore](keeping.write, idle=spending.record_meanwhile) as buffer:
        for piece in pieces:
            for phase in piece.phases:
                _run_phase(_Running(work, ports, piece, phase, spending, reach, buffer, keeping))
    return spending


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
        keeping: Keeping,
    ) -> None:
        self.work, self.ports, self.piece, self.phase = work, ports, piece, phase
        self.spending, self.reach, self.buffer, self.keeping = spending, reach, buffer, keeping
        self.by_index = {item.example.index: item for item in piece.items}
        self.troubles: dict[int, tuple[str, str]] = {}
        self.suspects = Suspects()
        self.open: dict[int, None] = {}
        """The examples of the present request that are not over, in the order in which the runner begins them."""

    def pending(self) -> list[Item]:
        """What is still to be run; or to be judged anew, where another job's answer was stored first."""
        pending = self.piece.pending(self.phase)
        if not pending:
            self.buffer.drain()
            pending = self.piece.pending(self.phase) if self.keeping.settle(self.piece) else []
        return pending

    def take(self, event: Json) -> None:
        """Keep what an event tells."""
        if event["event"] == "trace":
            item = self.by_index[event["index"]]
            self.spending.grant.end_rollout(event["trace"]["usage"]["calls"])
            self.buffer.add(self.piece.take_trace(item, event["n"], priced(event["trace"], self.spending.slots)))
            self.reach.look()
            crash_point(f"{self.work.claim.step}.mid_work")
        elif event["event"] == "score":
            self.buffer.add(self.piece.take_score(self.by_index[event["index"]], event["n"], event["score"]))
        elif event["event"] == "infra":
            self.open.pop(event["index"])
            self.troubles[event["index"]] = (event["code"], self.piece.job.scrubbed(event["message"]))
        elif event["event"] == "example_done":
            self.open.pop(event["index"])
            self.work.progress(**_progress(self.piece))

    def is_asked(self, event: Json) -> bool:
        """Whether an event tells of the present request. Its process runs users' code, which may speak in its place."""
        if "index" not in event:
            return True
        known = "trace" not in event or slots_of(event["trace"]) <= self.spending.slots.keys()
        return event["index"] in self.open and event.get("n", self.phase.numbers[0]) in self.phase.numbers and known

    def ask(self, runner: Runner, batch: list[Json], width: int) -> None:
        spec, limit = self.piece.job.spec, get_settings().limits.example_seconds
        self.open = dict.fromkeys(example["index"] for example in batch)
        self.spending.grant.end_all_rollouts()
        body = {
            "program_key": self.phase.program_key,
            "token": self.spending.grant.token,
            "width": width,
            "time_limit_seconds": limit,
            "metric": spec.metric.model_dump(mode="json"),
            "min_score": spec.filter.min_score,
            "stop_on_pass": self.piece.stop_on_pass,
            "examples": batch,
        }
        for event in runner.request("rollouts", silence_seconds=limit + get_settings().timers.silence_seconds, **body):
            if not self.is_asked(event):
                raise runner.disbelieve()
            self.take(event)
            if event["event"] == "example_done":
                self.judge_first_examples()

    def blame(self, death: RunnerDied, in_flight: list[int], *, suspected: bool) -> None:
        """The process died under these examples. Raises the death when there are none, since then it was not theirs; Refused when it is
        not for single examples to be blamed any more."""
        if not death.is_the_programs or not in_flight:
            raise death
        log.warning("runner_died", cause=death.cause, reason=death.reason, in_flight=len(in_flight), tail=death.tail)
        culprit = self.suspects.died(in_flight, suspected=suspected, once=death.cause == "silent")
        if culprit is not None:
            self._convict(culprit, death)
        if self.suspects.culprits > MOST_CULPRITS:
            raise Refused(_kills_its_process(self.piece, death))
        if self.suspects.is_unexplained:
            raise death

    def _convict(self, index: int, death: RunnerDied) -> None:
        """Time and memory are limits of this machine, and no facts about the program."""
        if death.cause in NO_FACT:
            self.piece.undecided[index] = (NO_FACT[death.cause], f"The program's process {death.reason}")
        else:
            self.buffer.add(self.piece.take_death(self.by_index[index], self.phase, death.reason))

    def judge_first_examples(self) -> None:
        """Raises Refused when the first examples say that the others are not worth their calls."""
        if self.piece.stored_only or not (self.piece.is_bootstrap and self.work.claim.payload.get("whole")):
            return  # no call is at stake
        reason = verdict(self.piece)
        if reason is not None:
            _keep_for_readers(self.piece)
            raise Refused(reason)


def _run_phase(running: _Running) -> None:
    """Rounds until nothing is pending: what met trouble is put back in the queue of this item, after a pause."""
    running.judge_first_examples()
    bad_rounds = 0
    while pending := running.pending():
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
    """Ask for everything that is pending, or for those alone that may have ended the process before."""
    job, suspects = running.piece.job, running.suspects
    group = suspects.next({item.example.index for item in pending})
    chosen = [item for item in pending if item.example.index in group] or pending
    width = len(group) or running.work.claim.width
    running.open.clear()
    try:
        code = job.bundles_beside(running.phase.cast.program)
        runners = running.ports.runners.runner(job.project_id, job.job_id, job.python, bundles=code, fresh=len(group) == 1)
        with runners as runner, halting(running.work, runner):
            _ask_in_batches(running, runner, chosen, width)
            if any(code == "memory" for code, _ in running.troubles.values()):
                runner.kill()  # what filled it stays in it
    except RunnerError as error:
        raise Troubled(f"runner_{error.code}", error.message) from error
    except RunnerDied as death:
        running.work.check()
        running.blame(death, list(running.open)[:width], suspected=bool(group))
    for index in [index for index, (code, _) in running.troubles.items() if code == "memory" and len(group) != 1]:
        del running.troubles[index]
        suspects.suspect(index)  # beside others it may have met what they had taken


def _ask_in_batches(running: _Running, runner: Runner, chosen: list[Item], width: int) -> None:
    runner.ensure_open(running.phase.program_key, **running.phase.cast.runner_body())
    requests = (running.piece.request(item, running.phase) for item in chosen)
    for batch in batches(requests, lambda request: request):
        running.work.check()
        running.ask(runner, batch, width)


def _settle_troubles(running: _Running) -> None:
    """Take out of the troubles what no further round would mend. Raises Stopped where a connection has to wait, or the budget is spent."""
    running.work.check()
    if running.troubles:
        running.reach.check()
    if _drop(running.troubles, "budget_exhausted"):
        running.spending.halt(running.work)
    for index, (code, message) in list(running.troubles.items()):
        if code in REFUSED and not _may_be_loading(running.piece, code):
            raise Refused(_refusal(running.piece, code, message))
        if code in HOPELESS:
            running.piece.undecided[index] = running.troubles.pop(index)


def _drop(troubles: dict[int, tuple[str, str]], code: str) -> bool:
    """Whether there were any with this code."""
    found = [index for index, (met, _) in troubles.items() if met == code]
    for index in found:
        del troubles[index]
    return bool(found)


def _may_be_loading(piece: Slice, code: str) -> bool:
    """An LM host that has just started does not know our models yet: its agent is about to load them."""
    return piece.role in ("compiled", INCUMBENT) and code == "model_not_found"


def _refusal(piece: Slice, code: str, message: str) -> Reason:
    step = "bootstrap" if ":" in piece.role else "evaluate"
    students = ("baseline", "baseline_constrained", "compiled", DEMOS_KEPT, DEMOS_DROPPED)
    param = "evaluate.incumbent" if piece.role == INCUMBENT else "lms" if piece.role in students else "teacher"
    return Reason(code, f"The LM host refused the calls of {piece.role}: {message}", step, param)


def _give_up_after(running: _Running, bad_rounds: int) -> None:
    """Raises Troubled when the rounds are used up; Stopped where a connection was tried and has not answered."""
    if bad_rounds < ROUNDS:
        return
    running.reach.fail_try()  # a host that has answered nothing says nothing about the examples
    of_examples = all(code in leftovers.ONE_BY_ONE for code, _ in running.troubles.values())
    if not of_examples or not (leftovers.is_last_try(running.work.claim) or leftovers.are_few(running.piece, running.troubles)):
        code, message = next(iter(running.troubles.values()))
        raise Troubled(code, f"{len(running.troubles)} examples could not be run: {message}")
    running.piece.undecided.update(running.troubles)


def _kills_its_process(piece: Slice, death: RunnerDied) -> Reason:
    step = "bootstrap" if ":" in piece.role else "evaluate"
    text = f"{MOST_CULPRITS + 1} examples of one slice ended the program's process; of the last one it {death.reason}."
    return Reason("program_ends_its_process", f"{text} Run the program on one of them on your own machine.", step, "program")


def _progress(piece: Slice) -> dict[str, Any]:
    done = sum(piece.stored(item, 0).trace is not None for item in piece.items)
    return {"done": done, "total": len(piece.items), "start": piece.items[0].example.index if piece.items else 0}


# ------------------------------------------------------------------ publish


def verdict(piece: Slice) -> Reason | None:
    """Why the first examples of a teacher say that the others are not worth their calls; None where they do not say so."""
    job, total = piece.job, len(piece.items)
    outcomes = [piece.outcome(item) for item in piece.items]
    return bootstrap.judge(outcomes, job.spec.smoke_test, _teacher_name(piece), job.plan.train_examples - total)


def _publish(work: Work, piece: Slice, spending: Spending) -> None:
    saved = spending.saved_rows(piece.saved(spending.slots))
    piece, later = leftovers.put_off(work.claim, piece)
    rows, counts = facts_of(piece)
    spent = spending.counts()
    counts.update(spent, teacher_calls=spent["calls"] if piece.role.startswith("teacher") else 0)
    closed = flow.after_bootstrap if work.claim.step is Step.BOOTSTRAP else flow.after_evaluate

    def before(s: Session) -> None:
        row_facts.store(s, rows)
        usage.record(s, saved)

    work.publish(counts=counts, before=before, locked=lambda s: telling.slice_is_over(s, piece), on_closed=closed, later=later)


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
            rollout_facts.rollout_fact(
                piece.job.job_id, piece.role, index, stored.n, piece.names[key], stored.trace, stored.score, reused=reused
            )
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
