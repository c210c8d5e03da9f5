"""The trace store: what a program answered, looked up by digest before anything is paid for again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from distill.catalog import trace_retries
from distill.catalog.copying import copy_in
from distill.catalog.facts import Trace
from distill.db import Session
from distill.errors import NotFound
from distill.ids import new_id

FACTS = frozenset({"ok", "failed", "unparsable"})
_LOOKED_AT = 2000
_COLUMNS = (
    "project_id", "digest", "id", "source", "status", "program_digest", "lms_digest", "inputs_digest", "prompt_hash", "rollout",
    "dspy_version", "job_id", "body", "calls", "prompt_tokens", "completion_tokens", "seconds", "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewTrace:
    """A trace to be stored: `body` is the runner's trace JSON, whose status must be a fact (`ok`, `failed`, `unparsable`)."""

    project_id: str
    digest: str
    program_digest: str
    lms_digest: str
    inputs_digest: str
    prompt_hash: str
    rollout: int
    body: Mapping[str, Any]
    source: str = "runner"
    dspy_version: str | None = None
    job_id: str | None = None
    retry_of: str | None = None
    """The digest of the rollout, where an earlier trace of it had failed: this one has a digest of its own then."""
    id: str = field(default_factory=lambda: new_id("trace"))


@dataclass(frozen=True, slots=True)
class StoredTrace:
    id: str
    digest: str
    status: str
    body: dict[str, Any]
    dspy_version: str | None
    job_id: str | None
    created_at: datetime


def lookup(s: Session, project_id: str, digests: Iterable[str]) -> dict[str, StoredTrace]:
    """The project's traces with these digests; absent ones are not in the result."""
    wanted = list(digests)
    if not wanted:
        return {}
    query = select(Trace).where(Trace.project_id == project_id, Trace.digest.in_(wanted))
    return {row.digest: _stored(row) for row in s.scalars(query)}


def known(s: Session, project_id: str, digests: Iterable[str]) -> set[str]:
    """Which of these are stored; for counting, without reading the traces."""
    return set(s.scalars(select(Trace.digest).where(Trace.project_id == project_id, Trace.digest.in_(list(digests)))))


def heads(s: Session, project_id: str, digests: Iterable[str]) -> dict[str, tuple[str, str]]:
    """`{digest: (id, status)}` of those that are stored, without reading the traces."""
    query = select(Trace.digest, Trace.id, Trace.status).where(Trace.project_id == project_id, Trace.digest.in_(list(digests)))
    return {row.digest: (row.id, row.status) for row in s.execute(query)}


def newest(
    s: Session, project_id: str, program_digest: str, lms_digest: str | None, limit: int, *, failed: bool = True
) -> list[dict[str, Any]]:
    """The newest traces of a program, of these LMs or of any, with failed ones or without; among the last few thousand of the program."""
    recent = select(Trace.digest).where(Trace.project_id == project_id, Trace.program_digest == program_digest)
    among = recent.order_by(Trace.id.desc()).limit(_LOOKED_AT)
    query = select(Trace.body).where(Trace.project_id == project_id, Trace.digest.in_(among.scalar_subquery()))
    if lms_digest is not None:
        query = query.where(Trace.lms_digest == lms_digest)
    if not failed:
        query = query.where(Trace.status != trace_retries.FAILED)
    return [json.loads(body) for body in s.scalars(query.order_by(Trace.id.desc()).limit(limit))]


def get(s: Session, project_id: str, trace_id: str) -> StoredTrace:
    row = s.scalar(select(Trace).where(Trace.project_id == project_id, Trace.id == trace_id))
    if row is None:
        raise NotFound(f"no trace {trace_id}", param="id")
    return _stored(row)


def store(s: Session, rows: Sequence[NewTrace]) -> int:
    """Store traces by COPY; those that are there already stay. Returns how many are new. Raises ValueError for one that is no fact."""
    for row in rows:
        if row.body["status"] not in FACTS:
            raise ValueError(f"a trace with status {row.body['status']!r} is no fact")
    trace_retries.store(s, [(row.project_id, row.retry_of, row.digest) for row in rows if row.retry_of is not None])
    return copy_in(s, "traces", _COLUMNS, (_values(row) for row in rows), ("project_id", "digest")) if rows else 0


def _values(row: NewTrace) -> tuple[Any, ...]:
    usage = row.body.get("usage") or {}
    return (
        row.project_id, row.digest, row.id, row.source, row.body["status"], row.program_digest, row.lms_digest,
        row.inputs_digest, row.prompt_hash, row.rollout, row.dspy_version, row.job_id, dump(row.body), int(usage.get("calls", 0)),
        int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), float(row.body.get("seconds") or 0.0), "now",
    )  # fmt: skip


def dump(body: Mapping[str, Any]) -> str:
    """Compact JSON with the keys in their order, and nothing in it that a text column refuses."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return text


def _stored(row: Trace) -> StoredTrace:
    return StoredTrace(row.id, row.digest, row.status, json.loads(row.body), row.dspy_version, row.job_id, row.created_at)
