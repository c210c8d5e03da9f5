"""Revisions go up, down and up again, and make exactly the schema that the models describe."""

from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from sqlalchemy import make_url

from migrations import runner
from tests.support import databases


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """A database without tables, of this test's own."""
    address = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrations_test")
    yield databases.in_database(postgres_url, "migrations_test")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP DATABASE migrations_test WITH (FORCE)")


def relations(url: str) -> list[tuple[str, ...]]:
    """Every column, constraint and index of the public schema."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    query = """
        SELECT 'column', table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
                   WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2, 3, 4
    """
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


class TestMigrations:
    def test_up_down_up(self, empty_database: str) -> None:
        runner.upgrade(empty_database)
        first = relations(empty_database)
        runner.downgrade(empty_database)
        assert {row[1] for row in relations(empty_database)} == {"alembic_version"}
        runner.upgrade(empty_database)
        assert relations(empty_database) == first

    def test_models_and_revisions_agree(self, empty_database: str) -> None:
        runner.upgrade(empty_database)
        command.check(runner.config(empty_database))

    def test_what_grows_is_partitioned(self, empty_database: str) -> None:
        runner.upgrade(empty_database)
        tables = {row[1] for row in relations(empty_database)}
        for table in ("traces", "scores", "row_facts"):
            assert {f"{table}_p{part}" for part in range(8)} <= tables

    def test_no_jsonb(self, empty_database: str) -> None:
        """`jsonb` forgets the order of keys, which is part of a prompt."""
        runner.upgrade(empty_database)
        assert "jsonb" not in {row[3] for row in relations(empty_database)}
