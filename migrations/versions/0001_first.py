"""Every table of the first release

Revision: 0001, after nothing
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STAMP = sa.DateTime(timezone=True)
CLOCK = sa.text("clock_timestamp()")
JSON_DOC = sa.JSON(none_as_null=True)
EMPTY = sa.text("'{}'")
PARTITIONED = ("traces", "scores", "row_facts")


def some(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
    """Plain NOT NULL columns of one type."""
    return [sa.Column(name, kind, nullable=False) for name in names]


def maybe(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
    """Plain nullable columns of one type."""
    return [sa.Column(name, kind, nullable=True) for name in names]


def _blobs() -> None:
    op.create_table(
        "blobs",
        *some(sa.Text(), "digest"),
        *some(sa.BigInteger(), "size_bytes"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blobs"),
    )


def _connections() -> None:
    op.create_table(
        "connections",
        *some(sa.Text(), "id", "name", "kind", "base_url"),
        *maybe(sa.ARRAY(sa.Text()), "models"),
        *some(sa.ARRAY(sa.Text()), "supports"),
        *maybe(sa.Text(), "trainer", "device", "api_key_env"),
        *some(sa.Integer(), "max_in_flight"),
        sa.Column("default_student", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("default_teacher", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("source", sa.Text(), server_default="settings", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        *maybe(STAMP, "waiting_since", "disabled_at"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.Column("updated_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("kind = 'lm_host'", name="ck_connections_kind"),
        sa.CheckConstraint("source IN ('settings', 'api')", name="ck_connections_source"),
        sa.CheckConstraint("max_in_flight >= 1", name="ck_connections_max_in_flight"),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        sa.UniqueConstraint("name", name="uq_connections_name"),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *some(sa.Text(), "queue"),
        *maybe(sa.Text(), "job_id"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "sent_at"),
        sa.CheckConstraint("queue IN ('light', 'rollouts', 'train')", name="ck_outbox_queue"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_unsent", "outbox", ["id"], unique=False, postgresql_where=sa.text("sent_at IS NULL"))


def _projects() -> None:
    op.create_table(
        "projects",
        *some(sa.Text(), "id", "name"),
        sa.Column("share", sa.Double(), server_default="1", nullable=False),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.Column("metadata", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.CheckConstraint("share > 0", name="ck_projects_share"),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )


def _row_facts() -> None:
    op.create_table(
        "row_facts",
        *some(sa.Text(), "job_id", "kind", "role"),
        sa.Column("example_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rollout", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("call", sa.Integer(), server_default="-1", autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *maybe(sa.Text(), "predictor", "trace_digest", "row_digest"),
        *some(sa.Text(), "status"),
        *maybe(sa.Double(), "score"),
        *maybe(sa.Boolean(), "passed", "reused"),
        *maybe(sa.Text(), "reason", "message"),
        *maybe(JSON_DOC, "data"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("(kind = 'rejected') = (reason IS NOT NULL)", name="ck_row_facts_reason"),
        sa.CheckConstraint("kind IN ('rollout', 'kept', 'rejected')", name="ck_row_facts_kind"),
        sa.PrimaryKeyConstraint("job_id", "kind", "role", "example_index", "rollout", "call", name="pk_row_facts"),
        postgresql_partition_by="HASH (job_id)",
    )
    op.create_index("ix_row_facts_job_id_id", "row_facts", ["job_id", "id"], unique=False)


def _server_meta() -> None:
    op.create_table("server_meta", *some(sa.Text(), "key", "value"), sa.PrimaryKeyConstraint("key", name="pk_server_meta"))


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        *some(sa.Text(), "id", "token_id", "secret_sha256", "project_id", "label"),
        *some(sa.ARRAY(sa.Text()), "scopes"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "expires_at", "revoked_at", "last_used_at"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_api_keys_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("token_id", name="uq_api_keys_token_id"),
    )
    op.create_index("ix_api_keys_project_id_id", "api_keys", ["project_id", "id"], unique=False)


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        *some(sa.Text(), "project_id", "route", "key", "request_digest"),
        *maybe(sa.Integer(), "status"),
        *maybe(sa.Text(), "body"),
        *maybe(JSON_DOC, "headers"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("(status IS NULL) = (body IS NULL)", name="ck_idempotency_keys_stored"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_idempotency_keys_project_id"),
        sa.PrimaryKeyConstraint("project_id", "route", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)


def _scores() -> None:
    op.create_table(
        "scores",
        *some(sa.Text(), "project_id", "trace_digest", "metric_digest", "example_digest"),
        *maybe(sa.Double(), "value"),
        *some(sa.Text(), "status"),
        *maybe(sa.Text(), "feedback", "error"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("(status = 'ok') = (value IS NOT NULL)", name="ck_scores_value"),
        sa.CheckConstraint("status IN ('ok', 'inconclusive', 'failed')", name="ck_scores_status"),
        sa.CheckConstraint("value IS NULL OR (value > '-Infinity' AND value < 'Infinity')", name="ck_scores_finite"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_scores_project_id"),
        sa.PrimaryKeyConstraint("project_id", "trace_digest", "metric_digest", "example_digest", name="pk_scores"),
        postgresql_partition_by="HASH (trace_digest)",
    )


def _traces() -> None:
    op.create_table(
        "traces",
        *some(sa.Text(), "project_id", "digest", "id"),
        sa.Column("source", sa.Text(), server_default="runner", nullable=False),
        *some(sa.Text(), "status", "program_digest", "lms_digest", "inputs_digest", "prompt_hash"),
        *some(sa.Integer(), "rollout"),
        *maybe(sa.Text(), "dspy_version", "job_id"),
        *some(sa.Text(), "body"),
        *some(sa.Integer(), "calls"),
        *some(sa.BigInteger(), "prompt_tokens", "completion_tokens"),
        *some(sa.Double(), "seconds"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("source IN ('runner', 'client', 'import')", name="ck_traces_source"),
        sa.CheckConstraint("status IN ('ok', 'failed', 'unparsable')", name="ck_traces_status"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_traces_project_id"),
        sa.PrimaryKeyConstraint("project_id", "digest", name="pk_traces"),
        postgresql_partition_by="HASH (digest)",
    )
    op.create_index("ix_traces_project_id_id", "traces", ["project_id", "id"], unique=False)
    op.create_index("ix_traces_project_id_program_digest", "traces", ["project_id", "program_digest", "id"], unique=False)


def _datasets() -> None:
    op.create_table(
        "datasets",
        *some(sa.Text(), "id", "project_id"),
        *maybe(sa.Text(), "name"),
        *maybe(sa.Integer(), "version"),
        *some(sa.Text(), "digest"),
        *some(sa.Integer(), "row_count"),
        *some(sa.BigInteger(), "size_bytes"),
        sa.Column("offsets", sa.ARRAY(sa.BigInteger()), nullable=False),
        *some(JSON_DOC, "fields"),
        sa.Column("source_format", sa.Text(), server_default="jsonl", nullable=False),
        *maybe(sa.Text(), "created_by"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "deleted_at"),
        sa.Column("metadata", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.CheckConstraint("(name IS NULL) = (version IS NULL)", name="ck_datasets_version"),
        sa.CheckConstraint("row_count >= 0", name="ck_datasets_row_count"),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_datasets_created_by"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_datasets_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("project_id", "name", "version", name="uq_datasets_project_id_name_version"),
    )
    op.create_index("ix_datasets_project_id_id", "datasets", ["project_id", "id"], unique=False)


def _programs() -> None:
    op.create_table(
        "programs",
        *some(sa.Text(), "id", "project_id", "digest"),
        *maybe(sa.Text(), "name"),
        *some(sa.Text(), "spec"),
        *maybe(sa.Text(), "created_by"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "deleted_at"),
        sa.Column("metadata", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_programs_created_by"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_programs_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_programs"),
        sa.UniqueConstraint("project_id", "digest", name="uq_programs_project_id_digest"),
    )
    op.create_index("ix_programs_project_id_id", "programs", ["project_id", "id"], unique=False)


def _jobs() -> None:
    op.create_table(
        "jobs",
        *some(sa.Text(), "id"),
        sa.Column("kind", sa.Text(), server_default="compile", nullable=False),
        *some(sa.Text(), "project_id"),
        *maybe(sa.Text(), "created_by", "name"),
        *some(sa.Text(), "program_name", "status"),
        sa.Column("step", sa.Text(), server_default="validate", nullable=False),
        sa.Column("round", sa.Integer(), server_default="1", nullable=False),
        *maybe(sa.Text(), "derived_from", "program_id", "trainset_id", "valset_id"),
        *some(sa.Text(), "spec", "spec_digest"),
        *some(sa.Integer(), "num_threads"),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        *maybe(STAMP, "cancel_requested_at", "pause_requested_at"),
        sa.Column("event_seq", sa.BigInteger(), server_default="0", nullable=False),
        *maybe(JSON_DOC, "progress"),
        *maybe(STAMP, "progress_event_at"),
        *maybe(sa.BigInteger(), "max_calls"),
        sa.Column("calls_taken", sa.BigInteger(), server_default="0", nullable=False),
        *maybe(JSON_DOC, "plan", "estimate", "evaluation"),
        sa.Column("warnings", JSON_DOC, server_default=sa.text("'[]'"), nullable=False),
        *maybe(JSON_DOC, "error"),
        sa.Column("metadata", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "queued_at", "started_at", "finished_at"),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="ck_jobs_error"),
        sa.CheckConstraint("(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="ck_jobs_finished"),
        sa.CheckConstraint("kind IN ('compile', 'fine_tune')", name="ck_jobs_kind"),
        sa.CheckConstraint(
            "status IN ('created', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name="ck_jobs_status"
        ),
        sa.CheckConstraint("step IN ('validate', 'bootstrap', 'prepare', 'assemble', 'train', 'evaluate', 'package')", name="ck_jobs_step"),
        sa.CheckConstraint("max_calls IS NULL OR calls_taken <= max_calls", name="ck_jobs_budget"),
        sa.CheckConstraint("num_threads >= 1", name="ck_jobs_num_threads"),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_jobs_created_by"),
        sa.ForeignKeyConstraint(["derived_from"], ["jobs.id"], name="fk_jobs_derived_from"),
        sa.ForeignKeyConstraint(["program_id"], ["programs.id"], name="fk_jobs_program_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_jobs_project_id"),
        sa.ForeignKeyConstraint(["trainset_id"], ["datasets.id"], name="fk_jobs_trainset_id"),
        sa.ForeignKeyConstraint(["valset_id"], ["datasets.id"], name="fk_jobs_valset_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_open", "jobs", ["status"], unique=False, postgresql_where=sa.text("status IN ('queued', 'running', 'paused')"))
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"], unique=False)


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        *some(sa.Text(), "id", "project_id", "job_id", "name", "digest", "manifest"),
        *some(JSON_DOC, "files"),
        *some(sa.BigInteger(), "size_bytes"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "deleted_at"),
        sa.Column("metadata", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_artifacts_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        sa.UniqueConstraint("job_id", name="uq_artifacts_job_id"),
    )
    op.create_index("ix_artifacts_digest", "artifacts", ["digest"], unique=False)
    op.create_index("ix_artifacts_project_id_id", "artifacts", ["project_id", "id"], unique=False)


def _fine_tune_jobs() -> None:
    op.create_table(
        "fine_tune_jobs",
        *some(sa.Text(), "id", "job_id", "project_id", "lm_key", "predictor"),
        *some(sa.ARRAY(sa.Text()), "lms", "predictors"),
        *some(sa.Text(), "connection_id", "base_model", "trainer"),
        *some(JSON_DOC, "options"),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        *maybe(sa.Integer(), "rows", "validation_rows"),
        *maybe(sa.Text(), "training_file", "validation_file", "checkpoint"),
        *maybe(sa.Integer(), "checkpoint_step"),
        *maybe(JSON_DOC, "progress"),
        *maybe(sa.Text(), "curve", "log"),
        *maybe(JSON_DOC, "result"),
        *maybe(sa.Text(), "model_id"),
        *maybe(JSON_DOC, "error"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "started_at", "finished_at"),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="ck_fine_tune_jobs_status"),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_fine_tune_jobs_connection_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_fine_tune_jobs_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_fine_tune_jobs_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tune_jobs"),
        sa.UniqueConstraint("job_id", "lm_key", "predictor", name="uq_fine_tune_jobs_job_id_lm_key_predictor"),
    )
    op.create_index("ix_fine_tune_jobs_project_id_id", "fine_tune_jobs", ["project_id", "id"], unique=False)


def _job_events() -> None:
    op.create_table(
        "job_events",
        *some(sa.Text(), "job_id"),
        *some(sa.BigInteger(), "seq"),
        *some(sa.Text(), "type"),
        sa.Column("level", sa.Text(), server_default="info", nullable=False),
        *some(sa.Text(), "message"),
        *maybe(JSON_DOC, "data"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("level IN ('debug', 'info', 'warning', 'error')", name="ck_job_events_level"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_events"),
    )


def _job_steps() -> None:
    op.create_table(
        "job_steps",
        *some(sa.Text(), "job_id", "name"),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        *some(sa.BigInteger(), "total"),
        sa.Column("counts", JSON_DOC, server_default=EMPTY, nullable=False),
        *maybe(JSON_DOC, "error"),
        sa.Column("opened_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "started_at", "finished_at"),
        sa.CheckConstraint(
            "name IN ('validate', 'bootstrap', 'prepare', 'assemble', 'train', 'evaluate', 'package')", name="ck_job_steps_name"
        ),
        sa.CheckConstraint("status <> 'succeeded' OR done = total", name="ck_job_steps_closed"),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="ck_job_steps_status"),
        sa.CheckConstraint("done >= 0 AND done <= total", name="ck_job_steps_done"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_steps_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_job_steps"),
    )


def _models() -> None:
    op.create_table(
        "models",
        *some(sa.Text(), "id", "project_id", "job_id", "fine_tune_job_id", "connection_id", "program_name"),
        *some(sa.ARRAY(sa.Text()), "predictors"),
        *some(sa.Text(), "base_model"),
        *maybe(sa.Text(), "base_model_digest", "upstream_model"),
        sa.Column("files", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.Column("settings", JSON_DOC, server_default=EMPTY, nullable=False),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "deleted_at"),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_models_connection_id"),
        sa.ForeignKeyConstraint(["fine_tune_job_id"], ["fine_tune_jobs.id"], name="fk_models_fine_tune_job_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_models_job_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_models_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("fine_tune_job_id", name="uq_models_fine_tune_job_id"),
    )
    op.create_index("ix_models_project_id_id", "models", ["project_id", "id"], unique=False)


def _work_items() -> None:
    op.create_table(
        "work_items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *some(sa.Text(), "job_id", "step", "kind"),
        sa.Column("ordinal", sa.Integer(), server_default="0", nullable=False),
        sa.Column("payload", JSON_DOC, server_default=EMPTY, nullable=False),
        *maybe(sa.Text(), "fine_tune_job_id"),
        *some(sa.Text(), "queue"),
        sa.Column("needs", sa.ARRAY(sa.Text()), server_default=EMPTY, nullable=False),
        sa.Column("connections", sa.ARRAY(sa.Text()), server_default=EMPTY, nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default="5", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("furthest", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("run_after", STAMP, server_default=CLOCK, nullable=False),
        sa.Column("hinted_at", STAMP, server_default=CLOCK, nullable=False),
        sa.Column("width", sa.Integer(), server_default="0", nullable=False),
        sa.Column("units", sa.BigInteger(), server_default="1", nullable=False),
        *maybe(sa.Text(), "lease_owner"),
        *maybe(STAMP, "lease_expires_at"),
        *maybe(JSON_DOC, "progress", "result", "error"),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        *maybe(STAMP, "started_at", "finished_at"),
        sa.CheckConstraint("(status = 'leased') = (lease_expires_at IS NOT NULL)", name="ck_work_items_lease_expires_at"),
        sa.CheckConstraint("(status = 'leased') = (lease_owner IS NOT NULL)", name="ck_work_items_lease_owner"),
        sa.CheckConstraint("(status = 'leased') = (width > 0)", name="ck_work_items_width"),
        sa.CheckConstraint("NOT held OR status IN ('queued', 'cancelled')", name="ck_work_items_held"),
        sa.CheckConstraint("queue IN ('light', 'rollouts', 'train')", name="ck_work_items_queue"),
        sa.CheckConstraint("status IN ('queued', 'leased', 'succeeded', 'failed', 'cancelled')", name="ck_work_items_status"),
        sa.CheckConstraint(
            "step IN ('validate', 'bootstrap', 'prepare', 'assemble', 'train', 'evaluate', 'package')", name="ck_work_items_step"
        ),
        sa.CheckConstraint("units >= 0", name="ck_work_items_units"),
        sa.ForeignKeyConstraint(["fine_tune_job_id"], ["fine_tune_jobs.id"], name="fk_work_items_fine_tune_job_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_work_items_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_work_items"),
    )
    op.create_index(
        "ix_work_items_claimable",
        "work_items",
        ["queue", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND NOT held"),
    )
    op.create_index("ix_work_items_job_id_step", "work_items", ["job_id", "step"], unique=False)
    op.create_index("ix_work_items_leased", "work_items", ["lease_expires_at"], unique=False, postgresql_where=sa.text("status = 'leased'"))


def _devices() -> None:
    op.create_table(
        "devices",
        *some(sa.Text(), "id"),
        sa.Column("on_train", sa.Text(), server_default="pause", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        *maybe(sa.BigInteger(), "item_id"),
        *maybe(STAMP, "lease_expires_at", "acknowledged_at", "agent_seen_at"),
        sa.CheckConstraint("on_train IN ('share', 'pause')", name="ck_devices_on_train"),
        sa.CheckConstraint("(item_id IS NULL) = (lease_expires_at IS NULL)", name="ck_devices_lease"),
        sa.CheckConstraint("acknowledged_at IS NULL OR item_id IS NOT NULL", name="ck_devices_acknowledged"),
        sa.ForeignKeyConstraint(["item_id"], ["work_items.id"], name="fk_devices_item_id", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
    )


def _placements() -> None:
    op.create_table(
        "placements",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *some(sa.Text(), "model_id", "connection_id"),
        sa.Column("status", sa.Text(), server_default="wanted", nullable=False),
        *maybe(sa.Text(), "error"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        *maybe(sa.Text(), "agent"),
        *maybe(STAMP, "ready_at", "last_used_at"),
        sa.Column("updated_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="ck_placements_error"),
        sa.CheckConstraint("status IN ('wanted', 'loading', 'ready', 'failed', 'unwanted', 'gone')", name="ck_placements_status"),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name="fk_placements_connection_id"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_placements_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_placements"),
        sa.UniqueConstraint("model_id", "connection_id", name="uq_placements_model_id_connection_id"),
    )


MAKERS = {
    "blobs": _blobs,
    "connections": _connections,
    "outbox": _outbox,
    "projects": _projects,
    "row_facts": _row_facts,
    "server_meta": _server_meta,
    "api_keys": _api_keys,
    "idempotency_keys": _idempotency_keys,
    "scores": _scores,
    "traces": _traces,
    "datasets": _datasets,
    "programs": _programs,
    "jobs": _jobs,
    "artifacts": _artifacts,
    "fine_tune_jobs": _fine_tune_jobs,
    "job_events": _job_events,
    "job_steps": _job_steps,
    "models": _models,
    "work_items": _work_items,
    "devices": _devices,
    "placements": _placements,
}
"""In the order of their foreign keys."""


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    for make in MAKERS.values():
        make()
    for table in PARTITIONED:
        for part in range(8):
            op.execute(f"CREATE TABLE {table}_p{part} PARTITION OF {table} FOR VALUES WITH (MODULUS 8, REMAINDER {part})")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in reversed(MAKERS):
        op.drop_table(table)
