"""Rows of what rollouts found out: traces, their scores, and what became of each row of a job.

All three are partitioned by hash from the first migration, since they outgrow everything else.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base

CLOCK = text("clock_timestamp()")


class Trace(Base):
    """One rollout of a program on one example. Facts only: `ok`, `unparsable`, or the program's own `failed`."""

    __tablename__ = "traces"
    __table_args__ = (
        CheckConstraint("status IN ('ok', 'failed', 'unparsable')", name="status"),
        CheckConstraint("source IN ('runner', 'client', 'import')", name="source"),
        Index("ix_traces_project_id_id", "project_id", "id"),
        Index("ix_traces_project_id_program_digest", "project_id", "program_digest", "id"),
        Index("ix_traces_project_id_inputs_digest", "project_id", "inputs_digest"),
        {"postgresql_partition_by": "HASH (digest)"},
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text, server_default="runner")
    status: Mapped[str] = mapped_column(Text)
    program_digest: Mapped[str] = mapped_column(Text)
    lms_digest: Mapped[str] = mapped_column(Text)
    inputs_digest: Mapped[str] = mapped_column(Text)
    prompt_hash: Mapped[str] = mapped_column(Text)
    rollout: Mapped[int]
    dspy_version: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(Text)
    """The job that paid for it; others may use it."""
    body: Mapped[str] = mapped_column(Text)
    """The trace as compact JSON text, its keys in the runner's order."""
    calls: Mapped[int]
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class RemovedRollouts(Base):
    """How many of a project's traces of a month (its first day) have been removed: its usage counts them still."""

    __tablename__ = "removed_rollouts"

    project_id: Mapped[str] = mapped_column(Text, primary_key=True)
    month: Mapped[date] = mapped_column(primary_key=True)
    rollouts: Mapped[int] = mapped_column(BigInteger)


class TraceRetry(Base):
    """A trace that was made since an earlier one of the same rollout had failed. Both are kept: jobs name the one that they used."""

    __tablename__ = "trace_retries"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    """Of the rollout, and of the trace that failed."""
    retry: Mapped[str] = mapped_column(Text, primary_key=True)
    """The digest of the other trace."""


class Score(Base):
    """What one metric said of one trace, beside one example with its labels. Whether it passes depends on the job's `min_score`."""

    __tablename__ = "scores"
    __table_args__ = (
        CheckConstraint("status IN ('ok', 'inconclusive', 'failed')", name="status"),
        CheckConstraint("value IS NULL OR (value > '-Infinity' AND value < 'Infinity')", name="finite"),
        CheckConstraint("(status = 'ok') = (value IS NOT NULL)", name="value"),
        {"postgresql_partition_by": "HASH (trace_digest)"},
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    trace_digest: Mapped[str] = mapped_column(Text, primary_key=True)
    metric_digest: Mapped[str] = mapped_column(Text, primary_key=True)
    example_digest: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[float | None]
    status: Mapped[str] = mapped_column(Text)
    feedback: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class LmUsage(Base):
    """What one claim of a work item asked of one LM: `paid` for, or `saved` by traces that an earlier job paid for.

    Written as it comes, without a fence: it was paid for whoever holds the lease now. What a client's traces took has a number of its own
    in place of the item's, and the fence 0.
    """

    __tablename__ = "lm_usage"
    __table_args__ = (
        CheckConstraint("kind IN ('paid', 'saved')", name="kind"),
        Index("ix_lm_usage_job_id", "job_id"),
        Index("ix_lm_usage_project_id_created_at", "project_id", "created_at"),
    )

    item_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    fence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    """`connection/model`."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    calls: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    usd: Mapped[float | None]
    """None: the price is not known."""
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class RowFact(Base):
    """What became of one rollout, or of one rendered call of it, inside one job.

    `kind` is `rollout` (a role ran an example: score, passed), `kept` or `rejected` (a call became a training row, or why not).
    """

    __tablename__ = "row_facts"
    __table_args__ = (
        CheckConstraint("kind IN ('rollout', 'kept', 'rejected')", name="kind"),
        CheckConstraint("(kind = 'rejected') = (reason IS NOT NULL)", name="reason"),
        Index("ix_row_facts_job_id_id", "job_id", "id"),
        {"postgresql_partition_by": "HASH (job_id)"},
    )

    job_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    role: Mapped[str] = mapped_column(Text, primary_key=True)
    """`teacher:0`, `baseline`, `baseline_constrained`, `teacher`, `compiled`, `incumbent`."""
    example_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rollout: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    call: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="-1")
    """Index of the call within the trace; -1 for the whole rollout."""
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    predictor: Mapped[str | None] = mapped_column(Text)
    trace_digest: Mapped[str | None] = mapped_column(Text)
    row_digest: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    score: Mapped[float | None]
    passed: Mapped[bool | None]
    reused: Mapped[bool | None]
    reason: Mapped[str | None] = mapped_column(Text)
    message: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
