"""Keys, projects, and the log of what was done."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stillhouse.types.base import Object


class ApiKey(Object):
    """An API key without its secret. `status` is active, expired or revoked; `hint` is how its token begins."""

    id: str
    created_at: int
    label: str
    scopes: list[str] = Field(default_factory=list)
    hint: str = ""
    status: str = "active"
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None


class NewApiKey(ApiKey):
    """`token` is shown this once; None when the reply that had it was lost, so that the key is of no use to anybody."""

    token: str | None = None


class RevokedKey(Object):
    """A key that was ended, and how many of its jobs were asked to stop."""

    id: str
    cancelled_jobs: int = 0


class Limit(Object):
    """`source` is api, settings or default."""

    value: float | None = None
    source: str = "default"


class Project(Object):
    id: str
    created_at: int
    name: str
    share: float = 1.0
    max_threads: int | None = None
    limits: dict[str, Limit] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)


class AuditEntry(Object):
    """One act: `action` was done to `object_id` by `key_id`, which is None for the command line on the server's machine."""

    id: str
    created_at: int
    action: str
    object_id: str
    project: str | None = None
    key_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class Usage(Object):
    """What a project has used in one month of UTC, and may use (`quotas`). `unknown` names teachers without a price."""

    project: str
    project_id: str | None = None
    month: str
    resets_at: int
    open_jobs: int = 0
    jobs: int = 0
    rollouts: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    teacher_usd: float = 0.0
    compute_seconds: float = 0.0
    blob_bytes: int = 0
    """What its blobs take up now, whatever the month."""
    unknown: list[str] = Field(default_factory=list)
    quotas: dict[str, Any] = Field(default_factory=dict)


class KeyUsage(Object):
    """What the jobs that one API key made have used; `key_id` is None for jobs that no key made."""

    key_id: str | None = None
    label: str | None = None
    jobs: int = 0
    calls: int = 0
    tokens: int = 0
    teacher_usd: float = 0.0
    compute_seconds: float = 0.0


class UsageByKey(Object):
    """Who used what since a time (`starts_at`, Unix seconds); who trained most comes first."""

    project: str
    starts_at: int
    data: list[KeyUsage] = Field(default_factory=list)
