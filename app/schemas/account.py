"""API keys, projects, and the log of what was done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Deleted, Metadata, Name, Reply
from app.schemas.rules import NULL, declared, if_given, needs, ruled
from distill.catalog import project_limits
from distill.catalog.keys import SCOPES
from distill.settings import Days

Label = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: Up to the year 9999, beyond which there is no date.
Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]
MONTH = 2_592_000


class KeyCreate(Body):
    """A new key of the project; with `replaces` in the place of another one."""

    model_config = ruled(
        examples.shown(label="pipeline of the support team", scopes=["jobs:read", "jobs:write"]),
        if_given("replaces", "string", {}, needs("label", "string", overlap_seconds=NULL)),
    )

    label: Label | None = Field(default=None, description="Who or what will use it; with `replaces` the old key's unless given")
    scopes: list[Annotated[str, declared(enum=SCOPES)]] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description=(
            "jobs:read, jobs:write, aliases:write, models:use, admin, metrics:read, operator; "
            "jobs:read, jobs:write and models:use unless given"
        ),
    )
    project: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Name or id: the key's own, unless an operator makes the first key of another"
    )
    expires_at: Seconds | None = Field(default=None, description="Unix seconds; it does not end by itself unless given")
    replaces: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="A key (`key-…`) that ends after the overlap")
    overlap_seconds: int | None = Field(
        default=None, ge=0, le=MONTH, description="For so long the replaced key still works; a day unless given"
    )


class KeyRead(Reply):
    """An API key without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    created_at: int
    label: str
    scopes: list[str]
    hint: str = Field(description="How its token begins")
    status: str = Field(description="active, expired or revoked")
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = Field(description="To the minute")


class KeyMade(KeyRead):
    """A new key with its token."""

    token: str | None = Field(description="Shown this once; null when the request is repeated with its Idempotency-Key")


class KeyRevoked(Deleted):
    """A key that opens nothing any more."""

    cancelled_jobs: int = Field(description="Jobs that the key had made, and that were asked to stop; 0 without `cancel_jobs`")


class SessionRead(Reply):
    """A browser's session: what stands for an API key there."""

    id: str
    object: Literal["session"] = "session"
    created_at: int
    expires_at: int = Field(description="It ends earlier when it is signed out or its key ends")
    key_id: str
    project: str
    scopes: list[str] = Field(description="Those of its key")
    csrf_token: str = Field(description="For the header `X-CSRF-Token` of every request but GET")


class ProjectCreate(Body):
    model_config = examples.shown(name="support-eu", metadata={"owner": "ana"})

    name: Name
    metadata: Metadata = Field(default_factory=dict)


class ProjectUpdate(Body):
    """What the project may use. A field that is left out stays; null gives it back to the server's settings."""

    model_config = examples.shown(share=2, max_threads=16)

    share: float | None = Field(default=None, ge=0.001, le=1_000_000, description="Its weight where projects compete for workers")
    max_threads: int | None = Field(default=None, ge=1, le=1_000_000, description="Rollouts and trainings at once, over all its jobs")
    max_jobs: int | None = Field(default=None, ge=0, le=1_000_000_000, description="Jobs that are not over, at once")
    month_teacher_usd: float | None = Field(default=None, ge=0, le=1e12)
    month_compute_seconds: float | None = Field(default=None, ge=0, le=1e12)
    max_blob_gb: float | None = Field(default=None, ge=0, le=1e9, description="What its blobs may take up, in 10^9 bytes")
    keep_traces_days: Days | None = Field(default=None, description="Days after which traces are removed; 0: never")
    keep_events_days: Days | None = Field(default=None, description="Days after the end of a job, as for its details")
    keep_job_details_days: Days | None = Field(default=None, description="Rows, training files and texts of errors of a job")
    keep_artifacts_days: Days | None = Field(default=None, description="Artifacts without an alias, also if called by id, and their models")
    keep_audit_log_days: Days | None = Field(default=None, description="Entries of the audit log")


class LimitRead(Reply):
    value: int | float | None = Field(description="null: no limit")
    source: Literal["api", "settings", "default"] = Field(description="Where the value comes from")


class ProjectRead(Reply):
    """What every job, dataset, program, model and artifact belongs to."""

    id: str
    object: Literal["project"] = "project"
    created_at: int
    name: str
    share: float = Field(description="Its weight where projects compete for workers")
    max_threads: int | None = Field(description="So many of its rollouts and trainings run at once, over all its jobs")
    limits: dict[str, LimitRead] = Field(description=f"As they hold now: {', '.join(project_limits.NAMES)}. Of days, 0 is for ever")
    metadata: dict[str, str]


class Quotas(Reply):
    """What the project may use, as the operator has set it."""

    max_jobs: int = Field(description="Jobs that are not over, at once")
    max_threads: int | None = Field(description="Rollouts and trainings at once")
    month_teacher_usd: float
    month_compute_seconds: float
    max_blob_gb: float | None = Field(description="What its blobs may take up, in 10^9 bytes; null: no limit")


class UsageRead(Reply):
    """What a project has used in one month of UTC."""

    object: Literal["usage"] = "usage"
    project: str
    project_id: str
    month: str = Field(description="YYYY-MM")
    starts_at: int
    resets_at: int = Field(description="When the next month begins")
    open_jobs: int = Field(description="Jobs that are not over now, whatever the month")
    jobs: int = Field(description="Compile jobs made")
    rollouts: int = Field(description="Rollouts that were run; reused ones are none")
    calls: int = Field(description="LM calls that jobs have paid for")
    prompt_tokens: int
    completion_tokens: int
    teacher_usd: float = Field(description="Without the teachers in `unknown`")
    compute_seconds: float = Field(description="Of trainings that ended in this month, or are under way")
    blob_bytes: int = Field(
        description="What its datasets, files, models and artifacts take up now, whatever the month; the same content counts once"
    )
    unknown: list[str] = Field(description="Teachers whose price nobody has named")
    quotas: Quotas


class KeyUsageRead(Reply):
    """What the jobs that one API key made have used."""

    key_id: str | None = Field(description="null for jobs that no key made")
    label: str | None
    jobs: int = Field(description="Compile jobs made")
    calls: int
    tokens: int
    teacher_usd: float
    compute_seconds: float


class UsageByKeyRead(Reply):
    """Who used what; who trained most comes first."""

    object: Literal["usage.keys"] = "usage.keys"
    project: str = Field(description="`*` for all")
    starts_at: int
    data: list[KeyUsageRead]


class AuditRead(Reply):
    """One act that changed what others rely on."""

    id: str
    object: Literal["audit_log.entry"] = "audit_log.entry"
    created_at: int
    project: str
    action: str = Field(description="api_key.created, alias.moved, job.cancelled, …")
    object_id: str = Field(description="What it was done to")
    key_id: str | None = Field(description="The API key that did it; null for the command line on the server's machine")
    data: dict[str, Any] = Field(description="What changed")
