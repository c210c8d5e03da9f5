"""What a random run comes to: figures to report, and everything that should not have been."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tests.chaos import paid
from tests.chaos.invariants import Violation, violations
from tests.chaos.paid import Paid
from tests.chaos.storm import Storm
from tests.chaos.world import OVER, World

PATIENCE_SECONDS = 300.0
BY_CHANCE = frozenset({"poison", "runner_died", "program_ends_its_process", "counter_died", "trainer_killed", "trainer_stalled"})
"""What a job may fail with when its processes are killed again and again. Any other reason is a fault of the server's."""
INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "paid", "failed", "API")
_FAILED = "SELECT id, error->>'code', error->>'message' FROM jobs WHERE status = 'failed' ORDER BY id"
_TABLES = ("public.jobs", "public.work_items", "public.job_steps", "public.job_events", "public.fine_tune_jobs", "chaos.audit")


@dataclass(frozen=True)
class Tally:
    """Of one run, once it is over."""

    accepted: int
    statuses: Counter[str]
    failures: Counter[str]
    paid: Paid
    struck: Counter[str]
    violations: list[Violation]

    @property
    def lost(self) -> int:
        """Jobs that were accepted and are not there, or not over."""
        return self.accepted - sum(self.statuses[status] for status in OVER)

    def count(self, invariant: str) -> int:
        return sum(each.invariant == invariant for each in self.violations)


def take(storm: Storm) -> Tally:
    """Waits for jobs that are still open, and for processes that are to be gone."""
    world = storm.world
    found = violations(world, PATIENCE_SECONDS)
    statuses = world.statuses()
    failed = world.query(_FAILED)
    found += [Violation("failed", f"{job}: {code}: {message}") for job, code, message in failed if code not in BY_CHANCE]
    return Tally(
        accepted=len(world.accepted),
        statuses=Counter(statuses[job] for job in world.accepted if job in statuses),
        failures=Counter(str(code) for _, code, _ in failed),
        paid=paid.count(world),
        struck=storm.struck,
        violations=found,
    )


def table_of(tally: Tally) -> Table:
    table = Table("what", "count", "", title="Random faults")
    table.add_row("jobs accepted", str(tally.accepted))
    for status in OVER:
        reasons = ", ".join(f"{code} {count}" for code, count in sorted(tally.failures.items())) if status == "failed" else ""
        table.add_row(f"  {status}", str(tally.statuses[status]), reasons)
    table.add_row("jobs lost", str(tally.lost))
    table.add_row("published twice", str(tally.count("I2")))
    table.add_row("published by a lost lease", str(tally.count("I3")))
    table.add_row("faults", str(tally.struck.total()), ", ".join(f"{name} {count}" for name, count in tally.struck.most_common()))
    table.add_row("paid calls", str(tally.paid.calls))
    table.add_row("  paid again", str(tally.paid.repeats), f"bound: {tally.paid.bound}, in flight or not yet kept at a fault")
    table.add_row("  of these without a fault", str(len(tally.paid.unexcused)))
    for name in INVARIANTS:
        table.add_row(f"violations of {name}", str(tally.count(name)))
    return table


def keep_evidence(world: World, folder: Path) -> None:
    """Logs, the rows that tell what happened, and the teacher's log: for looking into it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.home / "logs", folder / "logs")
    for table in _TABLES:
        rows = world.query(f"SELECT to_json(t)::text FROM {table} t")
        (folder / f"{table}.jsonl").write_text("".join(f"{row}\n" for (row,) in rows))
    calls = (json.dumps([call.digest, paid.about(call), call.asked_at, call.replied_at, call.status]) for call in world.lm.calls)
    (folder / "calls.jsonl").write_text("".join(f"{call}\n" for call in calls))
    (folder / "disruptions.jsonl").write_text("".join(f"{json.dumps(vars(each))}\n" for each in world.disruptions))
