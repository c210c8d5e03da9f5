"""Rows of what a job points at: projects, keys, connections, programs, datasets, models, devices, artifacts, aliases, blobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ColumnElement, ForeignKey, Identity, Index, Text, UniqueConstraint, func, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from distill.db import Base

CLOCK = text("clock_timestamp()")
NO_JSON = text("'{}'")


class Project(Base):
    __tablename__ = "projects"
    __table_args__ = (CheckConstraint("share > 0", name="share"), CheckConstraint("max_threads >= 1", name="max_threads"))

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    share: Mapped[float] = mapped_column(server_default="1")
    """Its weight when projects compete: a claim goes to the smallest running items ÷ share."""
    max_threads: Mapped[int | None]
    """What the widths of its leased items may add up to."""
    limits: Mapped[dict[str, Any] | None]
    """By name, those that an operator set over the API; see `project_limits`."""
    scrub: Mapped[str | None] = mapped_column(Text)
    """Whose national phone numbers are taken out of its traces, with other personal data; ZZ: nobody's, none: all stays as it is."""
    served_at: Mapped[datetime | None]
    """When one of its items was last claimed: among projects that stand equal, who waited longer, by its share, comes first."""
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=NO_JSON)


class ApiKey(Base):
    """`sh_<token_id>_<secret>`: only the SHA-256 of the secret is stored."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    token_id: Mapped[str] = mapped_column(Text, unique=True)
    secret_sha256: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    label: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """One act that changed what others rely on; it is removed by retention, or with its project."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    """None: the command line on the server's machine."""
    action: Mapped[str] = mapped_column(Text)
    object_id: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(server_default=NO_JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class Connection(Base):
    """An LM host, of the operator's settings file for every project, or a project's own.

    `revision` grows with every change of what answers and is part of an LM's digest. The operator's keys are never here; a project's are
    sealed. A project's own has `disabled_at` from the start and its id as `row_name`: processes of the release before, which know of no
    such connections, then neither list nor take one.
    """

    __tablename__ = "connections"
    __table_args__ = (
        CheckConstraint("kind = 'lm_host'", name="kind"),
        CheckConstraint("source IN ('settings', 'api')", name="source"),
        CheckConstraint("max_in_flight >= 1", name="max_in_flight"),
        CheckConstraint("limited_reason IN ('rate_limited', 'quota_exhausted', 'unavailable')", name="limited_reason"),
        CheckConstraint("num_nonnulls(limited_reason, limited_since, limited_until) IN (0, 3)", name="limited"),
        CheckConstraint("limited_times >= 0 AND (limited_times = 0) = (limited_since IS NULL)", name="limited_times"),
        CheckConstraint("(project_id IS NULL) = (own_name IS NULL)", name="own_name"),
        CheckConstraint("project_id IS NOT NULL OR num_nonnulls(sealed_key, key_hint, created_by, removed_at) = 0", name="own"),
        CheckConstraint("removed_at IS NULL OR sealed_key IS NULL", name="removed"),
        Index("uq_connections_own_name", "project_id", "own_name", unique=True, postgresql_where=text("removed_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    row_name: Mapped[str] = mapped_column("name", Text, unique=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))
    """None: the operator's, for every project."""
    own_name: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    base_url: Mapped[str] = mapped_column(Text)
    models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """None: any model name is passed on."""
    match: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Names of LMs in users' programs that it stands for, `*` being anything."""
    supports: Mapped[list[str]] = mapped_column(ARRAY(Text))
    trainer: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(Text)
    api_key_env: Mapped[str | None] = mapped_column(Text)
    sealed_key: Mapped[bytes | None]
    key_hint: Mapped[str | None] = mapped_column(Text)
    """The last characters of the sealed key, for people to tell keys apart."""
    max_in_flight: Mapped[int]
    default_student: Mapped[bool] = mapped_column(server_default=text("false"))
    default_teacher: Mapped[bool] = mapped_column(server_default=text("false"))
    prices: Mapped[dict[str, Any]] = mapped_column(server_default=NO_JSON)
    """`{model: {input, output, cached_input}}` in dollars per million tokens, as the operator said; `*` is any other model."""
    source: Mapped[str] = mapped_column(Text, server_default="settings")
    revision: Mapped[int] = mapped_column(server_default="1")
    waiting_since: Mapped[datetime | None]
    """Set while its host has handed its device to a trainer: what needs it is not claimable."""
    limited_reason: Mapped[str | None] = mapped_column(Text)
    """Set while its host does not take calls, with the two below: what needs it is not claimable until then, and then tried by one."""
    limited_since: Mapped[datetime | None]
    limited_until: Mapped[datetime | None]
    limited_times: Mapped[int] = mapped_column(server_default="0")
    """How often in a row it was tried, or found, in vain: the pauses grow with it."""
    disabled_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    updated_at: Mapped[datetime] = mapped_column(server_default=CLOCK)

    @hybrid_property
    def name(self) -> str:
        """As its jobs call it."""
        return self.row_name if self.own_name is None else self.own_name

    @name.inplace.expression
    @classmethod
    def _name_expression(cls) -> ColumnElement[str]:
        return func.coalesce(cls.own_name, cls.row_name)


class _ByDigest:
    """What a project has once by the digest of its `spec`, a JSON text."""

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    spec: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=NO_JSON)


class Program(_ByDigest, Base):
    """`spec`: canonical JSON of the ProgramSpec; users' keys keep their order. `identity`: what its client tells its code by.

    `base_digest`: the digest of a client's program if it had no identity.
    """

    __tablename__ = "programs"
    __table_args__ = (
        UniqueConstraint("project_id", "digest"),
        Index("ix_programs_project_id_id", "project_id", "id"),
        Index("ix_programs_project_id_identity", "project_id", "identity"),
        Index("ix_programs_project_id_base_digest", "project_id", "base_digest"),
    )

    identity: Mapped[str | None] = mapped_column(Text)
    base_digest: Mapped[str | None] = mapped_column(Text)


class Metric(_ByDigest, Base):
    """`spec`: what a job's `metric` takes; without the source of code."""

    __tablename__ = "metrics"
    __table_args__ = (UniqueConstraint("project_id", "digest"), Index("ix_metrics_project_id_id", "project_id", "id"))


class Dataset(Base):
    """Rows as a JSONL blob, with what an upload learned about them: byte offsets and a summary of the fields."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("project_id", "name", "version"),
        CheckConstraint("(name IS NULL) = (version IS NULL)", name="version"),
        CheckConstraint("row_count >= 0", name="row_count"),
        Index("ix_datasets_project_id_id", "project_id", "id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int | None]
    digest: Mapped[str] = mapped_column(Text)
    row_count: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    offsets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Byte offset of row 0, 1000, 2000, …"""
    fields: Mapped[list[Any]]
    """`[{"name", "present", "types": {json type: rows}, "first_missing": row}]` in order of appearance; rows are 1-based."""
    source_format: Mapped[str] = mapped_column(Text, server_default="jsonl")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=NO_JSON)


class File(Base):
    """A file as it was uploaded at the OpenAI-shaped address, not read yet; a deleted one's bytes are the collector's."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    purpose: Mapped[str] = mapped_column(Text)
    filename: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]


class Model(Base):
    """A fine-tuned model by the id it is served under. Ids are unique for ever, so a row is never removed."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fine_tune_job_id: Mapped[str] = mapped_column(ForeignKey("fine_tune_jobs.id"), unique=True)
    connection_id: Mapped[str] = mapped_column(ForeignKey("connections.id"))
    program_name: Mapped[str] = mapped_column(Text)
    predictors: Mapped[list[str]] = mapped_column(ARRAY(Text))
    base_model: Mapped[str] = mapped_column(Text)
    base_model_digest: Mapped[str | None] = mapped_column(Text)
    upstream_model: Mapped[str | None] = mapped_column(Text)
    """The id on a training service's side, where that is not ours."""
    files: Mapped[dict[str, Any]] = mapped_column(server_default=NO_JSON)
    """`{path: {"digest", "size_bytes"}}` of the LoRA adapter's files."""
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=NO_JSON)
    """Prompt adapter, generation options, constrain: how it is to be asked."""
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]


class Placement(Base):
    """Which LM host has, or should have, which fine-tuned model loaded."""

    __tablename__ = "placements"
    __table_args__ = (
        UniqueConstraint("model_id", "connection_id"),
        CheckConstraint("status IN ('wanted', 'loading', 'ready', 'failed', 'unwanted', 'gone')", name="status"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("status <> 'ready' OR ready_at IS NOT NULL", name="ready"),
        CheckConstraint("attempts >= 0", name="attempts"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    connection_id: Mapped[str] = mapped_column(ForeignKey("connections.id"))
    status: Mapped[str] = mapped_column(Text, server_default="wanted")
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(server_default="0")
    agent: Mapped[str | None] = mapped_column(Text)
    ready_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class Device(Base):
    """A device that a trainer and an LM host share. The lease is the train item's; the host's agent acknowledges it."""

    __tablename__ = "devices"
    __table_args__ = (
        CheckConstraint("on_train IN ('share', 'pause')", name="on_train"),
        CheckConstraint("(item_id IS NULL) = (lease_expires_at IS NULL)", name="lease"),
        CheckConstraint("acknowledged_at IS NULL OR item_id IS NOT NULL", name="acknowledged"),
        CheckConstraint("fence >= 0 AND (item_id IS NULL OR fence > 0)", name="fence"),
        Index("uq_devices_item_id", "item_id", unique=True),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    on_train: Mapped[str] = mapped_column(Text, server_default="pause")
    auto: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether each lease decides by the memory that is free; `on_train` is 'pause' then."""
    beside_fence: Mapped[int | None] = mapped_column(BigInteger)
    """The fence of the lease that runs beside the host under `auto`."""
    fence: Mapped[int] = mapped_column(BigInteger, server_default="0")
    item_id: Mapped[int | None] = mapped_column(ForeignKey("work_items.id", ondelete="SET NULL"))
    lease_expires_at: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    agent_seen_at: Mapped[datetime | None]


class Artifact(Base):
    """The immutable result of a succeeded job: at most one a job."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_project_id_id", "project_id", "id"), Index("ix_artifacts_digest", "digest"))

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    name: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Text)
    """Of the manifest, which holds the digest of every file."""
    manifest: Mapped[str] = mapped_column(Text)
    files: Mapped[dict[str, Any]]
    """`{path: {"digest", "size_bytes"}}`, the manifest and README.md among them."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    deleted_at: Mapped[datetime | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=NO_JSON)


class Alias(Base):
    """`program_name@alias` → one artifact: what production loads, and what a new job has to beat."""

    __tablename__ = "aliases"
    __table_args__ = (
        UniqueConstraint("project_id", "program_name", "alias"),
        Index("ix_aliases_project_id_id", "project_id", "id"),
        Index("ix_aliases_artifact_id", "artifact_id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    program_name: Mapped[str] = mapped_column(Text)
    alias: Mapped[str] = mapped_column(Text)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"))
    moved_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    moved_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class AliasMove(Base):
    """Where an alias has pointed. `artifact_id` is None where it was removed, `previous_artifact_id` where it was made."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        CheckConstraint("artifact_id IS NOT NULL OR previous_artifact_id IS NOT NULL", name="moved"),
        Index("ix_alias_moves_project_id_program_name_alias_id", "project_id", "program_name", "alias", "id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    program_name: Mapped[str] = mapped_column(Text)
    alias: Mapped[str] = mapped_column(Text)
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    previous_artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    moved_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column("moved_at", server_default=CLOCK)


class HeldOutRow(Base):
    """The inputs of a row that an artifact was measured on, by digest: to train its successor on them would void the comparison."""

    __tablename__ = "held_out_rows"

    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(Text, primary_key=True)


class Blob(Base):
    """Every blob that a row may point at. What is in the store but not here, and was put long ago, is the collector's."""

    __tablename__ = "blobs"
    __table_args__ = (Index("ix_blobs_unused", "digest", postgresql_where=text("unused_since IS NOT NULL")),)

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    unused_since: Mapped[datetime | None]
    """When the collector first found that no row points at it."""
    downloads: Mapped[list[Any] | None]
    """Of a training file: the digests of what a download gives in other shapes. None until it was read for them."""


class ServerMeta(Base):
    """Of this database as a whole: `store_id` of its blob store, `collected_at` and `retained_at`, `drain` during maintenance."""

    __tablename__ = "server_meta"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)
