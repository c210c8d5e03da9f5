"""Alembic's entry: one connection, one advisory lock, one transaction a revision."""

from __future__ import annotations

import re
from typing import Any

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import distill.catalog.browser_sessions
import distill.catalog.bundle_rows
import distill.catalog.counters
import distill.catalog.facts
import distill.catalog.idempotency_models
import distill.catalog.models
import distill.catalog.webhook_rows
import distill.jobs.erasure_rows
import distill.jobs.models  # noqa: F401 - registers the tables
from distill.db import Base, normalise_url
from distill.settings import get_settings
from migrations.runner import check_known, check_server

ONE_AT_A_TIME = 7_214_911
_PARTITION = re.compile(r"_p\d+$")


def _ours(item: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Partitions are made by the revision that makes their table; the models do not list them."""
    table = name if kind == "table" else getattr(getattr(item, "table", None), "name", None)
    return not (table and _PARTITION.search(table))


def run() -> None:
    url = context.config.attributes.get("database_url") or normalise_url(get_settings().database_url)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ONE_AT_A_TIME})
        check_server(connection)
        check_known(connection)
        connection.commit()
        context.configure(
            connection=connection, target_metadata=Base.metadata, include_object=_ours, transaction_per_migration=True, compare_type=True
        )
        with context.begin_transaction():
            context.run_migrations()


run()
