"""Many rows at once: COPY into a temporary table of the connection, then one INSERT that skips what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import psycopg
from psycopg import sql

from distill.db import Session


def copy_in(
    s: Session,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    key: Sequence[str],
    *,
    replace: bool | sql.SQL = False,
) -> int:
    """Insert rows in the session's transaction; returns how many were new (or changed, with `replace`).

    Rows whose `key` is taken are left as they are, or replaced: all of them, or those of which a condition is true. Of two incoming
    rows with one key the first counts.
    """
    connection = cast("psycopg.Connection[Any]", s.connection().connection.driver_connection)
    names = {"table": sql.Identifier(table), "incoming": sql.Identifier(f"incoming_{table}"), "columns": _list(columns), "key": _list(key)}
    with connection.cursor() as cursor:
        cursor.execute(_MAKE.format(**names))
        with cursor.copy(_COPY.format(**names)) as copy:
            for row in rows:
                copy.write_row(row)
        action = _replacing(columns, key) if replace else sql.SQL("DO NOTHING")
        if isinstance(replace, sql.SQL):
            action += sql.SQL(" WHERE ") + replace
        cursor.execute(_MOVE.format(**names, action=action))
        moved = cursor.rowcount
        cursor.execute(_EMPTY.format(**names))
    return moved


# The temporary table lives as long as its connection, so a flush twice a second does not churn the system catalogue.
_MAKE = sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {incoming} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} WITH NO DATA")
_COPY = sql.SQL("COPY {incoming} ({columns}) FROM STDIN")
_MOVE = sql.SQL(
    "INSERT INTO {table} ({columns}) SELECT DISTINCT ON ({key}) {columns} FROM {incoming} ORDER BY {key} ON CONFLICT ({key}) {action}"
)
_EMPTY = sql.SQL("DELETE FROM {incoming}")


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _replacing(columns: Sequence[str], key: Sequence[str]) -> sql.Composed:
    pairs = [sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in columns if name not in key]
    return sql.SQL("DO UPDATE SET ") + sql.SQL(", ").join(pairs)


def clean(text: str | None) -> str | None:
    """Text that PostgreSQL can hold: NUL and lone surrogates become the replacement character."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
