"""Trying a connection for a caller: outside any transaction, and not too often."""

from __future__ import annotations

import asyncio
import time

from app.schemas.connections import ConnectionTestRead
from app.services import Services
from distill.catalog import connections, fine_tuned
from distill.catalog.targets import target_of
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.relay import Target, try_out


def tried(services: Services, project_id: str, connection_id: str, model: str | None) -> ConnectionTestRead:
    """What came of one tiny call. Raises NotFound, Invalid for a model that it does not let through, LimitExceeded."""
    target = _target(project_id, connection_id, model)
    services.connection_tests.check(f"test:{project_id}")
    started = time.monotonic()
    found = asyncio.run(try_out(target, services.settings.egress.hosts))
    seconds = round(time.monotonic() - started, 3)
    return ConnectionTestRead(
        connection=connection_id,
        ok=found.code == "ok",
        code=found.code,
        message=found.message,
        model=target.model or None,
        seconds=seconds,
    )


def _target(project_id: str, connection_id: str, model: str | None) -> Target:
    with unit_of_work("api") as session:
        row = connections.get(session, project_id, connection_id)
        if model is not None and row.models is not None and model not in row.models:
            raise Invalid(
                f"model: {row.name} has no model {model} (there are: {', '.join(row.models)})", code="unknown_model", param="model"
            )
        if model is not None and fine_tuned.is_served_name(session, row.id, model):
            raise Invalid(f"model: {row.name} has no model {model}", code="unknown_model", param="model")
        return target_of(row, model or (row.models or [""])[0])
