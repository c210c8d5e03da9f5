"""What must hold after every scenario: I1 to I8 of the reliability notes, and the bound on repeated paid calls.

Read from outside: Postgres with the triggers of `audit`, the process table, the blob store, the log files, the teacher's log.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import LiteralString

import psutil
from sqlalchemy import make_url

from distill.jobs.status import POISON_AFTER
from tests.chaos import paid
from tests.chaos.world import OVER, TEACHER_KEY, World


@dataclass(frozen=True)
class Violation:
    """`invariant` is I1 … I8, `paid` or `API`."""

    invariant: str
    what: str


def violations(world: World, seconds: float = 60.0) -> list[Violation]:
    """Everything that does not hold; jobs get `seconds` to end, processes as long to be gone."""
    found = [Violation("I1", what) for what in i1_all_end(world, seconds)]
    checks: dict[str, Callable[[World], Iterator[str]]] = {
        "I2": i2_published_once,
        "I3": i3_no_stale_publish,
        "I4": i4_events_have_no_gap,
        "I5": partial(i5_no_process_left, seconds=seconds),
        "I6": i6_no_secret,
        "I7": i7_attempts,
        "I8": i8_blobs,
        "paid": paid_within_bound,
    }
    found += [Violation(name, what) for name, check in checks.items() for what in check(world)]
    return found + [Violation("API", what) for what in world.refused]


def i1_all_end(world: World, seconds: float) -> Iterator[str]:
    """Every job that was ever accepted is there and is over."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while open_ := _open_jobs(world):
        if time.monotonic() > deadline:
            break
        pause.wait(0.2)
    for job, status in open_.items():
        (items,) = world.query("SELECT string_agg(step || ' ' || status, ', ') FROM work_items WHERE job_id = %s", job)
        yield f"{job} ({world.accepted[job]}) is {status}: {items[0]}"


def _open_jobs(world: World) -> dict[str, str]:
    statuses = world.statuses()
    return {job: statuses.get(job, "lost") for job in world.accepted if statuses.get(job) not in OVER}


def _rows(world: World, statement: LiteralString, text: str) -> Iterator[str]:
    yield from (text.format(*row) for row in world.query(statement))


def i2_published_once(world: World) -> Iterator[str]:
    """One artifact a job, one model a key, one success an item and round, no unit counted twice."""
    artifacts = "SELECT job_id, count(*) FROM artifacts GROUP BY 1 HAVING count(*) > 1"
    yield from _rows(world, artifacts, "{} has {} artifacts")
    models = "SELECT fine_tune_job_id, count(*) FROM models GROUP BY 1 HAVING count(*) > 1"
    yield from _rows(world, models, "{} has {} models")
    ended = """SELECT a.item_id, count(*) FROM chaos.audit a WHERE a.kind = 'item' AND a.became = 'succeeded' GROUP BY 1, a.job_id
                HAVING count(*) > 1 + (SELECT count(*) FROM chaos.audit j WHERE j.kind = 'job' AND j.job_id = a.job_id
                                          AND j.was = 'failed' AND j.became = 'queued')"""
    yield from _rows(world, ended, "item {} was published {} times")
    counted = """SELECT s.job_id, s.name, s.done, sum(i.units) FROM job_steps s JOIN work_items i ON i.job_id = s.job_id AND i.step = s.name
                  AND i.status = 'succeeded' GROUP BY 1, 2, 3 HAVING s.done <> sum(i.units)"""
    yield from _rows(world, counted, "{} {} counts {} units, its items have {}")


_PUBLISHED = "kind = 'item' AND became = 'succeeded'"


def i3_no_stale_publish(world: World) -> Iterator[str]:
    """Who publishes holds the lease at that moment, by the newest fence; and nothing comes after a job's cancel or end."""
    stale = f"""SELECT item_id, told, fence_was, app, owner FROM chaos.audit
                 WHERE {_PUBLISHED} AND (was <> 'leased' OR by_holder IS NOT TRUE OR told IS DISTINCT FROM item_id || ':' || fence_was)"""
    yield from _rows(world, stale, "item {0} was published as {1} when its fence was {2} ({3}, leased by {4})")
    fences = "SELECT item_id, fence_was, fence FROM chaos.audit WHERE kind = 'item' AND fence <> fence_was + (became = 'leased')::int"
    yield from _rows(world, fences, "the fence of item {} went from {} to {}")
    loose = f"""SELECT p.kind, p.job_id, p.became FROM chaos.audit p WHERE p.kind IN ('artifacts', 'models') AND NOT EXISTS
                (SELECT 1 FROM chaos.audit i WHERE i.xid = p.xid AND i.job_id = p.job_id AND {_PUBLISHED.replace("kind", "i.kind", 1)})"""
    yield from _rows(world, loose, "a row of {} of {} was written without the end of its item: {}")
    late = f"""SELECT a.job_id, a.item_id FROM chaos.audit a JOIN jobs j ON j.id = a.job_id
                WHERE a.{_PUBLISHED} AND a.at > j.cancel_requested_at"""
    yield from _rows(world, late, "{}: item {} was published after the cancel")


def i4_events_have_no_gap(world: World) -> Iterator[str]:
    gaps = """SELECT j.id, j.event_seq, count(e.seq), min(e.seq), max(e.seq) FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id
               GROUP BY 1, 2 HAVING count(e.seq) <> j.event_seq OR min(e.seq) <> 1 OR max(e.seq) <> j.event_seq"""
    yield from _rows(world, gaps, "{} says {} events and has {}, from {} to {}")


def i5_no_process_left(world: World, seconds: float) -> Iterator[str]:
    """No trainer once nothing trains, no runner or trainer without the process that started it; both are given time to die: one that
    starts hears of it late."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while left := list(_left_behind(world)):
        if time.monotonic() > deadline:
            break
        pause.wait(0.1)
    yield from left


def _left_behind(world: World) -> Iterator[str]:
    trains = bool(world.query("SELECT 1 FROM work_items WHERE step = 'train' AND status = 'leased' LIMIT 1"))
    starters = {world.pid(name) for name in (*world.worker_names, "api")}  # the API tries metrics before it makes a job
    for process in psutil.process_iter(["cmdline", "status"]):
        kind = _kind_of(world, process)
        if kind is None or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        with contextlib.suppress(psutil.Error):
            if not starters & {parent.pid for parent in process.parents()}:
                yield f"{kind} {process.pid} outlived what started it"
            elif kind == "trainer" and not trains:
                yield f"trainer {process.pid} still runs"


def _kind_of(world: World, process: psutil.Process) -> str | None:
    """Whether it is a child that this world's workers or its API made. Guards say what they guard, too."""
    words, home = process.info["cmdline"] or [], str(world.home)
    if "engines.trainer" in words and any(home in word for word in words):
        return "trainer"
    with contextlib.suppress(psutil.Error):
        if "stillhouse_programs.runner" in words and home in process.environ().get("TMPDIR", ""):
            return "runner"
    return None


def i6_no_secret(world: World) -> Iterator[str]:
    """Keys and passwords are in no row, log, blob or reply."""
    passwords = [str(make_url(url).password) for url in (world.stack.layout.database_url, world.stack.layout.redis_url)]
    secrets = [TEACHER_KEY, *world.keys, *passwords]
    pattern = re.compile("|".join(map(re.escape, secrets)))
    for (table,) in world.query("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"):
        (count,) = world.query(f"SELECT count(*) FROM {table} t WHERE t::text ~ %s", pattern.pattern)
        if count[0]:
            yield f"{count[0]} rows of {table} hold a secret"
    for folder in ("logs", "blobs", "work"):
        for place in sorted((world.home / folder).rglob("*")):
            if place.is_file() and pattern.search(place.read_bytes().decode(errors="replace")):
                yield f"{place.relative_to(world.home)} holds a secret"
    if any(pattern.search(reply) for reply in world.replies):
        yield "a reply of the API holds a secret"


def i7_attempts(world: World) -> Iterator[str]:
    """Of the item's budget, and of leases lost without progress."""
    spent = "SELECT item_id, max(attempts), max_attempts FROM chaos.audit WHERE attempts > max_attempts GROUP BY 1, 3"
    yield from _rows(world, spent, "item {} had attempt {} of {}")
    tried = """SELECT item_id, max_attempts, count(*) FILTER (WHERE told IS NOT NULL AND became = 'queued') FROM chaos.audit
                WHERE kind = 'item' GROUP BY 1, 2 HAVING count(*) FILTER (WHERE told IS NOT NULL AND became = 'queued')
                      >= max_attempts * (1 + count(*) FILTER (WHERE was IN ('failed', 'cancelled')))"""
    yield from _rows(world, tried, "item {} may fail {} times and was tried again after {}")
    lost = f"SELECT item_id, max(losses) FROM chaos.audit WHERE losses > {POISON_AFTER} GROUP BY 1"
    yield from _rows(world, lost, "item {} was lost {} times")


_POINTED_AT = """
SELECT 'artifact ' || a.id, f.value->>'digest' FROM artifacts a, json_each(a.files) f
UNION SELECT 'model ' || m.id, f.value->>'digest' FROM models m, json_each(m.files) f
UNION SELECT 'training file of ' || id, training_file FROM fine_tune_jobs WHERE training_file IS NOT NULL
UNION SELECT 'dataset ' || id, digest FROM datasets
UNION SELECT 'blob', digest FROM blobs
"""


def i8_blobs(world: World) -> Iterator[str]:
    """What a row points at is there, whole and true to its name."""
    checked: dict[str, str | None] = {}
    for who, digest in world.query(_POINTED_AT):
        if digest not in checked:
            checked[digest] = _fault_of(world.home / "blobs", str(digest))
        if checked[digest]:
            yield f"{who}: blob {digest} {checked[digest]}"


def _fault_of(root: Path, digest: str) -> str | None:
    name = digest.removeprefix("sha256:")
    place = root / name[:2] / name[2:]
    if not place.is_file():
        return "is missing"
    with place.open("rb") as file:
        return None if hashlib.file_digest(file, "sha256").hexdigest() == name else "has other bytes"


def paid_within_bound(world: World) -> Iterator[str]:
    found = paid.count(world)
    yield from (f"paid again: {what}" for what in found.unexcused[:10])
    if found.repeats > found.bound:
        yield f"{found.repeats} calls were paid again, {found.bound} may have been"
