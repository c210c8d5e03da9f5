"""Rows of jobs: the job, its steps, work items, fine-tune jobs, events, and the outbox of hints."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base
from distill.jobs.status import POISON_AFTER, FineTuneStatus, ItemStatus, JobKind, JobStatus, Queue, Step, StepStatus

CLOCK = text("clock_timestamp()")


def one_of(column: str, words: type[StrEnum], name: str) -> CheckConstraint:
    """A CHECK that the column holds one of the enum's words."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(word)) for word in words)})", name=name)


def over(name: str) -> CheckConstraint:
    """A CHECK that a row has its finishing time as long as it stands at its end, and only then."""
    return CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name=name)


class Job(Base):
    """One compile request (or one OpenAI-shaped fine-tuning request), for good.

    Cancel and pause are requests in columns of their own; `status` follows when no item is leased any more.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("status", JobStatus, "status"),
        one_of("kind", JobKind, "kind"),
        one_of("step", Step, "step"),
        over("finished"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("num_threads >= 1", name="num_threads"),
        CheckConstraint("max_calls IS NULL OR calls_taken <= max_calls", name="budget"),
        CheckConstraint("round >= 1 AND event_seq >= 0 AND calls_taken >= 0", name="counters"),
        CheckConstraint("status IN ('created', 'cancelled') OR queued_at IS NOT NULL", name="queued"),
        CheckConstraint("status NOT IN ('running', 'succeeded') OR started_at IS NOT NULL", name="started"),
        CheckConstraint("status <> 'created' OR num_nonnulls(queued_at, started_at, pause_requested_at) = 0", name="created"),
        CheckConstraint("status <> 'cancelled' OR cancel_requested_at IS NOT NULL", name="cancelled"),
        CheckConstraint("status NOT IN ('succeeded', 'failed') OR cancel_requested_at IS NULL", name="not_cancelled"),
        CheckConstraint("status <> 'paused' OR pause_requested_at IS NOT NULL", name="paused"),
        CheckConstraint("pause_reason IS NULL OR pause_requested_at IS NOT NULL", name="pause_reason"),
        Index("ix_jobs_project_id_id", "project_id", "id"),
        Index(
            "ix_jobs_line",
            "project_id",
            text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=text("status IN ('queued', 'running') AND cancel_requested_at IS NULL AND pause_requested_at IS NULL"),
        ),
        Index(
            "ix_jobs_with_events",
            "project_id",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL AND erased_at IS NULL AND events_removed_at IS NULL"),
        ),
        Index("ix_jobs_with_details", "project_id", "finished_at", postgresql_where=text("finished_at IS NOT NULL AND erased_at IS NULL")),
        Index("ix_jobs_open", "status", postgresql_where=text("status IN ('queued', 'running', 'paused')")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text, server_default="compile")
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    name: Mapped[str | None] = mapped_column(Text)
    program_name: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    step: Mapped[str] = mapped_column(Text, server_default="validate")
    round: Mapped[int] = mapped_column(server_default="1")
    derived_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    program_id: Mapped[str | None] = mapped_column(ForeignKey("programs.id"))
    trainset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    valset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    spec: Mapped[str] = mapped_column(Text)
    """The CompileSpec as compact JSON text; `distill.spec.CompileSpec.model_validate_json` reads it."""
    spec_digest: Mapped[str] = mapped_column(Text)
    num_threads: Mapped[int]
    priority: Mapped[int] = mapped_column(server_default="0")
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    pause_reason: Mapped[dict[str, Any] | None]
    """Why it was asked to stand still: `{code, message}`, and the figures behind a budget's."""
    event_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    progress: Mapped[dict[str, Any] | None]
    progress_event_at: Mapped[datetime | None]
    max_calls: Mapped[int | None] = mapped_column(BigInteger)
    calls_taken: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Spent, or set aside for those who hold its items; `tokens_taken` and `usd_taken` too. The limits here are those that hold now."""
    max_tokens: Mapped[int | None] = mapped_column(BigInteger)
    tokens_taken: Mapped[int] = mapped_column(BigInteger, server_default="0")
    max_cost_usd: Mapped[float | None]
    usd_taken: Mapped[float] = mapped_column(server_default=text("0"))
    deadline: Mapped[datetime | None]
    plan: Mapped[dict[str, Any] | None]
    """What `validate` found out: predictors, keys, prompt hashes, slices. Later steps read it."""
    estimate: Mapped[dict[str, Any] | None]
    evaluation: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    error: Mapped[dict[str, Any] | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    """Of the request that made it, where OpenTelemetry's traces are on."""
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    """Since when its details (events, rows, files) are gone."""
    events_removed_at: Mapped[datetime | None]
    """Since when its events are gone, but for those of its end."""
    deleted_at: Mapped[datetime | None]
    """A deleted job stays as an id without content: models, usage and other jobs refer to it."""


class JobStep(Base):
    """One opened step. `done` and `total` count units (examples, keys, or 1); the step closes when they meet."""

    __tablename__ = "job_steps"
    __table_args__ = (
        one_of("name", Step, "name"),
        one_of("status", StepStatus, "status"),
        CheckConstraint("done >= 0 AND done <= total", name="done"),
        CheckConstraint("status <> 'succeeded' OR done = total", name="closed"),
        CheckConstraint("total >= 1", name="total"),
        over("finished"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("status NOT IN ('running', 'succeeded') OR started_at IS NOT NULL", name="started"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    status: Mapped[str] = mapped_column(Text, server_default="queued")
    done: Mapped[int] = mapped_column(BigInteger, server_default="0")
    total: Mapped[int] = mapped_column(BigInteger)
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Sums of what the items reported (reused, failed, kept, …)."""
    error: Mapped[dict[str, Any] | None]
    opened_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class WorkItem(Base):
    """The piece of a step that one worker claims. Its fence grows with each claim, and only the newest fence may publish."""

    __tablename__ = "work_items"
    __table_args__ = (
        one_of("step", Step, "step"),
        one_of("queue", Queue, "queue"),
        one_of("status", ItemStatus, "status"),
        CheckConstraint("(status = 'leased') = (lease_owner IS NOT NULL)", name="lease_owner"),
        CheckConstraint("(status = 'leased') = (lease_expires_at IS NOT NULL)", name="lease_expires_at"),
        CheckConstraint("(status = 'leased') = (width > 0)", name="width"),
        CheckConstraint("NOT held OR status IN ('queued', 'cancelled')", name="held"),
        CheckConstraint("units >= 0", name="units"),
        over("finished"),
        CheckConstraint("status IN ('queued', 'cancelled') OR started_at IS NOT NULL", name="started"),
        CheckConstraint("status <> 'leased' OR fence > 0 AND attempts > 0", name="leased"),
        CheckConstraint("result IS NULL OR status = 'succeeded'", name="result"),
        CheckConstraint("status <> 'succeeded' OR error IS NULL", name="no_error"),
        CheckConstraint(f"status <> 'failed' OR error IS NOT NULL OR losses >= {POISON_AFTER}", name="error"),
        CheckConstraint("(step = 'train') = (fine_tune_job_id IS NOT NULL)", name="key"),
        CheckConstraint("fence >= 0 AND losses >= 0 AND furthest >= 0 AND width >= 0 AND ordinal >= 0", name="counters"),
        CheckConstraint("attempts BETWEEN 0 AND max_attempts", name="attempts"),
        Index("uq_work_items_fine_tune_job_id", "fine_tune_job_id", unique=True),
        Index("ix_work_items_line", "job_id", "queue", "created_at", "id", postgresql_where=text("status = 'queued' AND NOT held")),
        Index("ix_work_items_leased", "lease_expires_at", postgresql_where=text("status = 'leased'")),
        Index("ix_work_items_job_id_step", "job_id", "step"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    ordinal: Mapped[int] = mapped_column(server_default="0")
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Small: ids and ranges. A range is `{"start", "stop"}`, 0-based and half open; a claim may cut it."""
    fine_tune_job_id: Mapped[str | None] = mapped_column(ForeignKey("fine_tune_jobs.id"))
    queue: Mapped[str] = mapped_column(Text)
    needs: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Capabilities its worker must have: `runtime:default`, `device:cpu-0`, …"""
    connections: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Connection ids it calls; it is not claimable while one of them is waiting."""
    status: Mapped[str] = mapped_column(Text, server_default="queued")
    held: Mapped[bool] = mapped_column(server_default=text("false"))
    """Counted in its step's total, but not claimable until `steps.release_held`."""
    priority: Mapped[int] = mapped_column(server_default="0")
    fence: Mapped[int] = mapped_column(BigInteger, server_default="0")
    attempts: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="5")
    losses: Mapped[int] = mapped_column(server_default="0")
    """Leases lost since the item last got further than ever before; three make it poison."""
    furthest: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The most that any of its leases had finished: examples, or the step of a checkpoint."""
    run_after: Mapped[datetime] = mapped_column(server_default=CLOCK)
    hinted_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    waits_since: Mapped[datetime | None]
    """Since when it gets no further for the sake of a connection that does not take calls; see `patience`."""
    width: Mapped[int] = mapped_column(server_default="0")
    units: Mapped[int] = mapped_column(BigInteger, server_default="1")
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class FineTuneJob(Base):
    """The training of one key: an LM (by what is trained of it) and a predictor, or `''` for all predictors of that LM."""

    __tablename__ = "fine_tune_jobs"
    __table_args__ = (
        one_of("status", FineTuneStatus, "status"),
        UniqueConstraint("job_id", "lm_key", "predictor"),
        over("finished"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="started"),
        CheckConstraint("model_id IS NULL OR status = 'succeeded'", name="model"),
        CheckConstraint("reused_from IS NULL OR model_id IS NOT NULL", name="reused"),
        CheckConstraint("rows >= 0 AND validation_rows >= 0 AND checkpoint_step >= 0 AND trained_seconds >= 0", name="counters"),
        Index("ix_fine_tune_jobs_project_id_id", "project_id", "id"),
        Index("ix_fine_tune_jobs_training", "project_id", "training_digest", postgresql_where=text("model_id IS NOT NULL")),
        Index("ix_fine_tune_jobs_model_id", "model_id", postgresql_where=text("model_id IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    lm_key: Mapped[str] = mapped_column(Text)
    predictor: Mapped[str] = mapped_column(Text)
    lms: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """The names in `lms{}` that share this key."""
    predictors: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """The predictors whose rows train it."""
    connection_id: Mapped[str] = mapped_column(ForeignKey("connections.id"))
    base_model: Mapped[str] = mapped_column(Text)
    trainer: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(Text, server_default="queued")
    rows: Mapped[int | None]
    validation_rows: Mapped[int | None]
    training_file: Mapped[str | None] = mapped_column(Text)
    validation_file: Mapped[str | None] = mapped_column(Text)
    """Digests of blobs, as is `checkpoint`."""
    checkpoint: Mapped[str | None] = mapped_column(Text)
    checkpoint_step: Mapped[int | None]
    trained_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    """How long trainers have been at work on it, over all attempts since the last retry; it is held against the deadline."""
    earlier_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    """As `trained_seconds`, in the rounds before: a retry has the whole deadline again, and gives no time of the month back."""
    progress: Mapped[dict[str, Any] | None]
    curve: Mapped[str | None] = mapped_column(Text)
    log: Mapped[str | None] = mapped_column(Text)
    log_tail: Mapped[str | None] = mapped_column(Text)
    """The end of the log while it trains; `log` is the whole, once an attempt has ended."""
    training_digest: Mapped[str | None] = mapped_column(Text)
    """Of all that the trainer is given; equal digests are one training."""
    reused_from: Mapped[str | None] = mapped_column(ForeignKey("fine_tune_jobs.id"))
    """The fine-tune job that trained this one's model, where it was not trained again."""
    result: Mapped[dict[str, Any] | None]
    model_id: Mapped[str | None] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process that was heard of lately: what it listens to, and what it can do. For readers; claims do not look here."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    capabilities: Mapped[list[str]] = mapped_column(ARRAY(Text))
    threads: Mapped[int | None]
    """None, as `version`: of a release that does not say."""
    version: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    seen_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class Checkpoint(Base):
    """Where a training may be taken up again: the files of one checkpoint, written by the holder of the lease after they were stored."""

    __tablename__ = "checkpoints"
    __table_args__ = (CheckConstraint("step >= 0 AND fence > 0", name="counters"),)

    fine_tune_job_id: Mapped[str] = mapped_column(ForeignKey("fine_tune_jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[dict[str, Any]]
    """`{name: {"digest", "size_bytes"}}`, blobs."""
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class JobEvent(Base):
    """What happened to a job, in commit order: `seq` has no gap and is the event stream's id."""

    __tablename__ = "job_events"
    __table_args__ = (CheckConstraint("level IN ('debug', 'info', 'warning', 'error')", name="level"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    level: Mapped[str] = mapped_column(Text, server_default="info")
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class Outbox(Base):
    """A hint to be sent: written with the change that makes work claimable, sent by the dispatcher after the commit."""

    __tablename__ = "outbox"
    __table_args__ = (
        one_of("queue", Queue, "queue"),
        Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    queue: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    sent_at: Mapped[datetime | None]
