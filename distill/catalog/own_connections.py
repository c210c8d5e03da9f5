"""A project's own connections: made and changed over HTTP, at public addresses, with a sealed key that nobody is shown again.

The operator's, of the settings file, are seen by every project and changed by none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, text

from distill.catalog import audit, connections, own_keys, sealed, waits
from distill.catalog.models import Connection
from distill.db import Session
from distill.egress import check_url
from distill.errors import Conflict, Invalid, PermissionDenied
from distill.ids import new_id
from distill.settings import get_settings

MOST_CONNECTIONS = 100
_HINT_CHARACTERS, _SHORTEST_WITH_HINT = 4, 16
_TAKEN_PREFIXES = ("conn-", "sh-")
_KEY = "api_key"
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('connections', 0))")


def create(s: Session, project_id: str, name: str, values: Mapping[str, Any], api_key: str | None, key_id: str | None) -> Connection:
    """`values` are columns. Raises Invalid, and Conflict for a name that the project sees already, or where it has too many."""
    s.execute(_LOCK)  # the settings file is read into rows under it too
    _check_name(s, project_id, name)
    _check_address(values["base_url"])
    connection_id = new_id("conn")
    row = Connection(
        id=connection_id,
        row_name=connection_id,
        project_id=project_id,
        own_name=name,
        source="api",
        disabled_at=func.clock_timestamp(),
        created_by=key_id,
        **values,
    )
    _set_key(s, row, api_key)
    s.add(row)
    s.flush()
    s.refresh(row)
    audit.record(s, project_id, "connection.created", row.id, {"name": name, "base_url": row.base_url, "has_key": api_key is not None})
    return row


def change(s: Session, project_id: str, connection_id: str, changes: Mapping[str, Any]) -> Connection:
    """`changes` are columns, or `api_key`. What its jobs have asked before stays theirs: another address is another revision.

    Raises NotFound, Invalid, and PermissionDenied for one of the operator's.
    """
    if _KEY in changes:
        sealed.keep_key(s)
    row = own(s, project_id, connection_id)
    changed = {name for name, value in changes.items() if name == _KEY or getattr(row, name) != value}
    if "base_url" in changed:
        _check_address(changes["base_url"])
        _check_key_goes_along(row, changes)
    for name in changed - {_KEY}:
        setattr(row, name, changes[name])
    if _KEY in changed:
        _set_key(s, row, changes[_KEY])
    if changed & connections.CHANGES_ANSWERS:
        row.revision += 1
    if changed:
        row.updated_at = func.clock_timestamp()
        s.flush()
        audit.record(s, project_id, "connection.changed", row.id, {"name": row.name, "changed": sorted(changed)})
    if changed & {_KEY, "base_url"}:
        waits.forget(s, [row.id])
    s.refresh(row)
    return row


def own(s: Session, project_id: str, connection_id: str) -> Connection:
    """The project's own, locked: no job takes it and nobody else changes it until the transaction ends.

    Raises NotFound, and PermissionDenied for one of the operator's.
    """
    row = connections.get(s, project_id, connection_id)
    if row.project_id is None:
        raise PermissionDenied(
            f"{row.name} is the operator's connection: it is changed in the server's settings file", code="operators_connection", param="id"
        )
    s.execute(select(Connection.id).where(Connection.id == row.id).with_for_update())
    s.refresh(row)
    return connections.get(s, project_id, connection_id)


def remove(s: Session, row: Connection) -> None:
    """Of a locked row. Its id stays, since traces and usage name it; its key is gone."""
    row.sealed_key, row.key_hint, row.removed_at = None, None, func.clock_timestamp()
    s.flush()
    audit.record(s, row.project_id or "", "connection.deleted", row.id, {"name": row.name})


def _check_name(s: Session, project_id: str, name: str) -> None:
    if name.startswith(_TAKEN_PREFIXES):
        raise Invalid(f"name: {name[:5]}… is how the server's own ids begin", code="bad_name", param="name")
    known = connections.find(s, name, project_id)
    if known is not None:
        whose = "the operator has" if known.project_id is None else "the project has"
        raise Conflict(f"name: {whose} a connection {name} already, choose another name", code="connection_exists", param="name")
    held = s.scalar(
        select(func.count()).select_from(Connection).where(Connection.project_id == project_id, Connection.removed_at.is_(None))
    )
    if held is not None and held >= MOST_CONNECTIONS:
        raise Conflict(f"a project has at most {MOST_CONNECTIONS} connections of its own; delete one first", code="too_many_connections")


def _check_address(base_url: str) -> None:
    check_url(base_url, get_settings().egress.hosts, "base_url")
    if "?" in base_url:
        raise Invalid("base_url: holds a query; give the part before /chat/completions", code="bad_url", param="base_url")


def _check_key_goes_along(row: Connection, changes: Mapping[str, Any]) -> None:
    """Whoever may change the address does not know the key: they must not have it sent to themselves."""
    if row.sealed_key is not None and _KEY not in changes:
        message = "api_key: the key of before is not sent to another address; give the key of this one, or null for none"
        raise Invalid(message, code="key_needed", param=_KEY)


def _set_key(s: Session, row: Connection, key: str | None) -> None:
    for_what = own_keys.purpose(row.project_id or "", row.id)
    row.sealed_key = None if key is None else sealed.seal(s, key.encode(), for_what)
    row.key_hint = key[-_HINT_CHARACTERS:] if key is not None and len(key) >= _SHORTEST_WITH_HINT else None
