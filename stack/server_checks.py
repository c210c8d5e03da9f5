"""The doctor's looks at PostgreSQL, Redis and blobs: what is asked of a server, and what is made of its answer."""

import time
from collections.abc import Mapping
from typing import Any

import redis
from sqlalchemy import func, make_url, select, text

from distill.catalog import key_rotation
from distill.catalog.blobs import check_store, held, store_id
from distill.db import Session
from distill.jobs.status import WORKER_QUEUES
from distill.jobs.workers import by_queue
from distill.queue import KEEPS_ALL, broker_facts
from distill.settings import Settings
from distill.storage import open_store
from migrations.runner import OLDEST_POSTGRES, check_schema, head
from stack.findings import Finding, odd, well, worst_of, wrong

LEAST_CONNECTIONS = 100
MOST_SKEW_SECONDS = 5.0
FULL = 0.7
_ASKED = ("server_version", "server_version_num", "max_connections", "fsync", "full_page_writes", "default_transaction_read_only")
_MENDED = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""By series, the first version in which a script cannot take the server over (CVE-2025-49844); later series have it from the start."""


def postgres(s: Session) -> Finding:
    return judge_postgres({name: str(s.scalar(select(func.current_setting(name)))) for name in _ASKED})


def judge_postgres(shown: Mapping[str, str]) -> Finding:
    """From the values of `current_setting`."""
    looks = [_version_of_postgres(shown)]
    if shown["default_transaction_read_only"] == "on":
        looks.append(wrong("read-only", "point DATABASE_URL at the primary"))
    if int(shown["max_connections"]) < LEAST_CONNECTIONS:
        advice = f"set max_connections to {LEAST_CONNECTIONS} or more: a process holds up to 20 connections for each of its two doors"
        looks.append(odd(f"max_connections {shown['max_connections']}", advice))
    for name in ("fsync", "full_page_writes"):
        if shown[name] != "on":
            looks.append(odd(f"{name} {shown[name]}", f"set {name} to on: without it a machine that stops may take accepted jobs with it"))
    return worst_of(looks)


def _version_of_postgres(shown: Mapping[str, str]) -> Finding:
    detail = f"version {shown['server_version']}"
    if int(shown["server_version_num"]) >= OLDEST_POSTGRES:
        return well(detail)
    return wrong(detail, "upgrade PostgreSQL to 16 or newer")


def clock(s: Session) -> Finding:
    before = time.time()
    theirs = float(s.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return judge_clock(theirs - (before + time.time()) / 2)


def judge_clock(ahead_seconds: float) -> Finding:
    """How far the database's clock is ahead of this machine's. Leases and deadlines go by the database's alone."""
    if abs(ahead_seconds) <= MOST_SKEW_SECONDS:
        return well("this machine and the database agree")
    words = f"the database is {abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'} this machine"
    return odd(words, "synchronise both with NTP: logs do not fit together, and keys and certificates may expire too early or too late")


def migrations(s: Session) -> Finding:
    """Raises StartRefused, which says what to do."""
    check_schema(s)
    return well(f"at {head()}, the newest")


def blob_store(s: Session, settings: Settings) -> Finding:
    """Raises StorageError, which says what to do."""
    store = open_store(settings)
    check_store(s, store)
    number, size, unused, waste = held(s)
    holds = f"{number} blobs, {size / 1e9:.2f} GB" + (f"; {unused} of them, {waste / 1e9:.2f} GB, are not used any more" if unused else "")
    return well(f"{store} belongs to this database ({store_id(s)}): {holds}")


def stored_secrets(s: Session) -> Finding:
    """Whether the keys of connections and the secrets of webhooks open. Raises CannotOpen for a key that is no key."""
    number, closed = key_rotation.closed(s)
    if not closed:
        return well(f"{number} of {number} open" if number else "none")
    return wrong(f"{len(closed)} of {number} open under none of the keys: {', '.join(closed)}", key_rotation.LOST_KEY)


def workers(s: Session) -> Finding:
    return judge_workers(by_queue(s))


def judge_workers(found: Mapping[str, int]) -> Finding:
    """From the number of live workers by queue."""
    detail = ", ".join(f"{found.get(queue, 0)} for {queue}" for queue in WORKER_QUEUES)
    missing = [str(queue) for queue in WORKER_QUEUES if not found.get(queue)]
    if not missing:
        return well(detail)
    return odd(detail, f"start `stillhouse-server worker --queues {','.join(missing)}`: jobs are accepted and wait")


def broker(settings: Settings) -> Finding:
    """Raises redis.RedisError when it does not answer."""
    return judge_broker(broker_facts(), is_open=_takes_strangers(settings.redis_url), is_near=_is_near(settings.redis_url))


def judge_broker(facts: Mapping[str, Any], *, is_open: bool, is_near: bool) -> Finding:
    """From INFO. `is_open`: it asks for no password; `is_near`: on this machine alone."""
    looks = [_version_of_broker(facts), _policy(facts)]
    if is_open:
        level = odd if is_near else wrong
        looks.append(level("no password", "set requirepass or an ACL, and name it in REDIS_URL"))
    most, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    if most and used > FULL * most:
        advice = "give it more maxmemory, or its own instance: when it is full, hints are refused and work waits"
        looks.append(odd(f"memory {used / most:.0%} full", advice))
    return worst_of(looks)


def _version_of_broker(facts: Mapping[str, Any]) -> Finding:
    kind = "valkey" if "valkey_version" in facts else "redis"
    version = str(facts[f"{kind}_version"])
    detail = f"{kind.title()} {version}"
    major, minor, patch = (int(part) for part in (*version.split("."), "0", "0")[:3])
    series = _MENDED[kind]
    if (major, minor) > max(series) or patch >= series.get((major, minor), 10_000):
        return well(detail)
    newest = {f"{a}.{b}.{c}" for (a, b), c in series.items()}
    return odd(detail, f"upgrade to {', '.join(sorted(newest))} or newer, or a build that mends CVE-2025-49844")


def _policy(facts: Mapping[str, Any]) -> Finding:
    policy = facts.get("maxmemory_policy")
    if policy is None:
        return odd("maxmemory-policy unknown", f"see to it that it is {KEEPS_ALL}: this server does not tell")
    detail = f"maxmemory-policy {policy}"
    advice = f"set `maxmemory-policy {KEEPS_ALL}` in its configuration, or give Stillhouse its own Redis: nothing starts on this one"
    return well(detail) if policy == KEEPS_ALL else wrong(detail, advice)


def _takes_strangers(url: str) -> bool:
    given = make_url(url)
    try:
        with redis.Redis(given.host or "localhost", given.port or 6379, socket_timeout=3, ssl=given.drivername == "rediss") as stranger:
            return bool(stranger.ping())
    except redis.RedisError:
        return False


def _is_near(url: str) -> bool:
    return make_url(url).host in (None, "localhost", "127.0.0.1", "::1")
