"""/v1/usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from app.auth import Reader
from app.deps import SessionDep, router
from app.schemas.account import UsageByKeyRead, UsageRead
from app.views.account import usage_by_key_read, usage_read
from distill.db import now
from distill.jobs import quotas
from distill.jobs.quotas import Month
from distill.jobs.usage_by_key import usage_by_key

routes = router("account")


@routes.get("/usage", summary="What the project has used in a month")
def get_usage(
    caller: Reader,
    session: SessionDep,
    month: Annotated[str | None, Query(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", description="YYYY-MM, of UTC; this month unless given")] = None,
) -> UsageRead:
    """Jobs, rollouts, calls, tokens, teacher money and compute-seconds, with the quotas that they count against and when those reset."""
    of = Month.of(now(session) if month is None else datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC))
    used = quotas.usage(session, caller.project_id, of)
    return usage_read(caller.project_name, used, quotas.open_jobs(session, caller.project_id))


@routes.get("/usage/keys", summary="Who used what in the last days")
def get_usage_by_key(
    caller: Reader,
    session: SessionDep,
    days: Annotated[int, Query(ge=1, le=366, description="Up to now")] = 7,
) -> UsageByKeyRead:
    """By the API key that made the jobs: jobs, calls, tokens, teacher money and compute-seconds."""
    since, found = usage_by_key(session, caller.project_id, days)
    return usage_by_key_read(caller.project_name, since, found)
