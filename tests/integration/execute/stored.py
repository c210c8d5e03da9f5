"""Everything that is stored, to be searched for what should be gone."""

from __future__ import annotations

from redis import Redis
from sqlalchemy import text

from distill.db import unit_of_work
from distill.settings import get_settings
from tests.integration.execute.house import House

_TABLES = text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def searched(house: House) -> dict[str, bytes]:
    """Every table, blob and key of Redis, by its name."""
    with unit_of_work() as s:
        tables = sorted(s.scalars(_TABLES))
        found = {table: " ".join(s.scalars(text(f'SELECT "{table}"::text FROM "{table}"'))).encode() for table in tables}
    found |= {f"blob {blob.digest}": house.store.read(blob.digest) for blob in house.store.listing()}
    with Redis.from_url(get_settings().redis_url) as redis:
        found["redis"] = b" ".join(redis.dump(key) or b"" for key in redis.scan_iter())
    return found


def tables_naming(object_id: str) -> set[str]:
    with unit_of_work() as s:
        tables = s.scalars(_TABLES).all()
        return {table for table in tables if any(object_id in row for row in s.scalars(text(f'SELECT "{table}"::text FROM "{table}"')))}
