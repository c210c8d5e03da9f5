"""What a database looks like and holds, by PostgreSQL's own catalog: for tests that compare schemas, or write rows as older code did."""

import re
from dataclasses import dataclass

import psycopg
from psycopg import sql
from sqlalchemy import make_url

_PARTITION = re.compile(r"_p\d+(_|$)")
_CATALOG = """
SELECT 'column' AS kind, c.relname AS owner, a.attname AS name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), 'IDENTITY ' || nullif(a.attidentity::text, '')) AS definition
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'partitioning', relname, relname, pg_get_partkeydef(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'p'
ORDER BY 1, 2, 3, 4
"""
Fact = tuple[str, str, str, str]


@dataclass(frozen=True)
class Rows:
    """The rows of a table as PostgreSQL writes them out, sorted, with the columns that they were written by."""

    columns: tuple[str, ...]
    lines: tuple[bytes, ...]


class Schema:
    """One database, looked at from outside: as its superuser, by connections that live for one call."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    def facts(self) -> set[Fact]:
        """(kind, table, name, definition) of every column, constraint, index and partitioned table; partitions and Alembic's own table
        are left out."""
        with psycopg.connect(self._url) as connection:
            found: list[Fact] = connection.execute(_CATALOG).fetchall()
        return {fact for fact in found if fact[1] != "alembic_version" and not _PARTITION.search(fact[1])}

    def columns(self) -> dict[tuple[str, str], str]:
        """Definition by table and column."""
        return {(owner, name): definition for kind, owner, name, definition in self.facts() if kind == "column"}

    def rows(self) -> dict[str, Rows]:
        """Every table's rows."""
        by_table: dict[str, list[str]] = {}
        for table, column in sorted(self.columns()):
            by_table.setdefault(table, []).append(column)
        with psycopg.connect(self._url) as connection:
            return {table: Rows(tuple(names), _read(connection, table, names)) for table, names in by_table.items()}

    def rows_by(self, old: dict[str, Rows]) -> dict[str, Rows]:
        """The rows again, by the columns of an earlier look: what code of that time reads. Fails where one is not there any more."""
        with psycopg.connect(self._url) as connection:
            return {table: Rows(rows.columns, _read(connection, table, rows.columns)) for table, rows in old.items()}

    def write_again(self, old: dict[str, Rows]) -> None:
        """Write the rows of an earlier look, by its columns, as code of that time would; then take everything back. Fails where a rule
        of this schema refuses one."""
        with psycopg.connect(self._url) as connection:
            connection.execute("SET session_replication_role = replica")  # foreign keys need no order then; all other rules hold
            for table in self.rows():
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            for table, rows in old.items():
                with connection.cursor().copy(_copy(table, rows.columns)) as copy:
                    for line in rows.lines:
                        copy.write(line)
            connection.rollback()


def _read(connection: psycopg.Connection[tuple[object, ...]], table: str, columns: list[str] | tuple[str, ...]) -> tuple[bytes, ...]:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, sql.Identifier(table))
    with connection.cursor().copy(statement) as copy:
        return tuple(sorted(bytes(line) for line in copy))


def _copy(table: str, columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)))
