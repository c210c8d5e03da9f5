"""API keys, projects and the audit log as their readers see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime

from app.schemas.account import (
    AuditRead,
    KeyMade,
    KeyRead,
    KeyUsageRead,
    LimitRead,
    ProjectRead,
    Quotas,
    SessionRead,
    UsageByKeyRead,
    UsageRead,
)
from app.views.convert import seconds
from distill.catalog import project_limits
from distill.catalog.browser_sessions import Opened
from distill.catalog.keys import status_of
from distill.catalog.models import ApiKey, AuditEntry, Project
from distill.jobs.quotas import Usage
from distill.jobs.usage_by_key import KeyUsage


def key_read(row: ApiKey, at: datetime) -> KeyRead:
    """`at` is the time by which it is told whether it has expired."""
    return KeyRead(
        id=row.id,
        created_at=seconds(row.created_at),
        label=row.label,
        scopes=row.scopes,
        hint=f"sh_{row.token_id}_…",
        status=status_of(row, at),
        expires_at=seconds(row.expires_at),
        revoked_at=seconds(row.revoked_at),
        last_used_at=seconds(row.last_used_at),
    )


def key_made(row: ApiKey, at: datetime, token: str | None) -> KeyMade:
    return KeyMade(**key_read(row, at).model_dump(), token=token)


def session_read(opened: Opened, csrf_token: str) -> SessionRead:
    return SessionRead(
        id=opened.row.id,
        created_at=seconds(opened.row.created_at),
        expires_at=seconds(opened.row.expires_at),
        key_id=opened.row.key_id,
        project=opened.caller.project_name,
        scopes=sorted(opened.caller.scopes),
        csrf_token=csrf_token,
    )


def project_read(row: Project) -> ProjectRead:
    limits = project_limits.of(row)
    return ProjectRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=row.name,
        share=row.share,
        max_threads=row.max_threads,
        limits={name: LimitRead(value=limits.values[name], source=limits.sources[name]) for name in project_limits.NAMES},
        metadata=row.user_metadata,
    )


def audit_read(row: AuditEntry, project: str) -> AuditRead:
    return AuditRead(
        id=row.id,
        created_at=seconds(row.created_at),
        project=project,
        action=row.action,
        object_id=row.object_id,
        key_id=row.key_id,
        data=row.data,
    )


def usage_read(project: Project, used: Usage, open_jobs: int, blob_bytes: int) -> UsageRead:
    quota = project_limits.of(project).values
    return UsageRead(
        project=project.name,
        project_id=project.id,
        month=str(used.month),
        starts_at=seconds(used.month.since),
        resets_at=seconds(used.month.until),
        open_jobs=open_jobs,
        jobs=used.jobs,
        rollouts=used.rollouts,
        calls=used.calls,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        teacher_usd=used.teacher_usd,
        compute_seconds=used.compute_seconds,
        blob_bytes=blob_bytes,
        unknown=[f"price of {model}" for model in used.unpriced],
        quotas=Quotas(
            max_jobs=quota["max_jobs"],
            max_threads=quota["max_threads"],
            month_teacher_usd=quota["month_teacher_usd"],
            month_compute_seconds=quota["month_compute_seconds"],
            max_blob_gb=quota["max_blob_gb"],
        ),
    )


def usage_by_key_read(project: str, since: datetime, found: Iterable[KeyUsage]) -> UsageByKeyRead:
    return UsageByKeyRead(project=project, starts_at=seconds(since), data=[KeyUsageRead(**asdict(each)) for each in found])
