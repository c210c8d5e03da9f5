"""Connections: LM hosts. The operator's are rows that mirror the settings file; projects' own are beside them, see `own_connections`.

A project sees both, and of two of one name its own. Without a project, only the operator's are meant.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select, update

from distill.catalog import devices
from distill.catalog.models import Connection
from distill.db import Session
from distill.errors import NotFound
from distill.ids import new_id
from distill.settings import ConnectionSettings, DeviceSettings, PriceSettings, Settings

HOUSE = "house"
"""The embedded LM host's connection."""

_VALUES = (
    "kind",
    "base_url",
    "models",
    "match",
    "supports",
    "trainer",
    "device",
    "api_key_env",
    "max_in_flight",
    "default_student",
    "default_teacher",
    "prices",
)
CHANGES_ANSWERS = frozenset({"kind", "base_url"})
_OWN_FIRST = Connection.project_id.is_(None)


def sync(s: Session, settings: Settings, *, disable_others: bool = True) -> None:
    """Make the table say what the settings say. A connection that left the file is disabled, never removed: jobs point at it.

    Workers pass `disable_others=False`: one that was started without the file must not take everybody's connections away.
    """
    wanted = _wanted(settings)
    # On a new database there is no row to lock yet, and API, workers and agents start together.
    s.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("connections", 0))))
    known = {row.row_name: row for row in s.scalars(select(Connection).where(Connection.project_id.is_(None)).with_for_update())}
    for name, values in wanted.items():
        _store(s, known.get(name), name, values, embedded=name == HOUSE and HOUSE not in settings.connections)
    gone = [row.id for name, row in known.items() if name not in wanted and row.disabled_at is None]
    if gone and disable_others:
        s.execute(update(Connection).where(Connection.id.in_(gone)).values(disabled_at=func.clock_timestamp()))
    s.flush()
    for device, entry in _devices(settings, wanted, known_only=not disable_others).items():
        devices.configure(s, device, entry.on_train)


def _devices(settings: Settings, wanted: dict[str, dict[str, Any]], *, known_only: bool) -> dict[str, DeviceSettings]:
    """The devices of these connections, in the order of their names; `known_only`: those that the settings name."""
    names = sorted({values["device"] for values in wanted.values() if values["device"]})
    return {name: settings.devices.get(name, DeviceSettings()) for name in names if name in settings.devices or not known_only}


def _wanted(settings: Settings) -> dict[str, dict[str, Any]]:
    wanted = {name: _values(entry) for name, entry in settings.connections.items()}
    if settings.lmhost_url and HOUSE not in wanted:
        alone = not any(entry.default_student for entry in settings.connections.values())
        house = ConnectionSettings(
            base_url=settings.lmhost_url,
            models=[settings.lmhost.base_model],
            api_key_env="STILLHOUSE_LMHOST_KEY",
            max_in_flight=settings.lmhost.max_in_flight,
            default_student=alone,
            supports=["structured_outputs", "lora", *(["tools"] if settings.lmhost.tools else [])],
            device="cpu-0",
            trainer="local",
            prices={"*": PriceSettings(input=0, output=0)},  # nobody sends a bill for it
        )
        wanted[HOUSE] = _values(house)
    return wanted


def _values(entry: ConnectionSettings) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in _VALUES}
    prices = {model: price.model_dump(exclude_none=True) for model, price in entry.prices.items()}
    return {**values, "models": None if entry.models == "*" else list(entry.models), "prices": prices}


def _store(s: Session, row: Connection | None, name: str, values: dict[str, Any], *, embedded: bool) -> None:
    if row is None:
        s.add(Connection(id=new_id("conn"), row_name=name, source="settings", **values))
        return
    changed = {key for key, value in values.items() if getattr(row, key) != value}
    if not changed and row.disabled_at is None:
        return
    for key in changed:
        setattr(row, key, values[key])
    if changed & CHANGES_ANSWERS and not embedded:  # the embedded host gets another port at every start, and answers the same
        row.revision += 1
    if "device" in changed:  # the agent that would end the wait looks after another device from now on
        row.waiting_since = None
    row.disabled_at = None
    row.updated_at = func.clock_timestamp()


def list_connections(s: Session, project_id: str | None = None) -> list[Connection]:
    return list(s.scalars(select(Connection).where(_seen_by(project_id)).order_by(Connection.name, _OWN_FIRST)))


def by_id(s: Session, connection_id: str) -> Connection:
    """Whosever it is, and also one that is there no more: jobs name the ids that they were submitted with. Raises NotFound."""
    row = s.get(Connection, connection_id)
    if row is None:
        raise NotFound(f"no connection {connection_id}", code="connection_not_found")
    return row


def get(s: Session, project_id: str, connection_id: str) -> Connection:
    """One that the project sees, by its id. Raises NotFound."""
    row = s.scalar(select(Connection).where(Connection.id == connection_id, _seen_by(project_id)))
    if row is None:
        raise NotFound(f"no connection {connection_id}", code="connection_not_found", param="id")
    return row


def find(s: Session, name_or_id: str, project_id: str | None = None) -> Connection | None:
    """One that the project sees, by name or id."""
    either = (Connection.name == name_or_id) | (Connection.id == name_or_id)
    return s.scalar(select(Connection).where(either, _seen_by(project_id)).order_by(_OWN_FIRST).limit(1))


def default(s: Session, side: Literal["student", "teacher"], project_id: str | None = None) -> Connection | None:
    """The connection that a job gets when it names none for this side: the project's own, else the operator's; the first by name."""
    flag = Connection.default_student if side == "student" else Connection.default_teacher
    return s.scalar(select(Connection).where(flag, _seen_by(project_id)).order_by(_OWN_FIRST, Connection.name).limit(1))


def any_own(s: Session, connection_ids: Collection[str]) -> bool:
    """Whether one of these is a project's own."""
    query = select(Connection.id).where(Connection.id.in_(connection_ids), Connection.project_id.is_not(None))
    return bool(connection_ids) and s.scalar(query.limit(1)) is not None


def hold(s: Session, row: Connection) -> None:
    """A project's own connection is not removed until the transaction ends. Raises NotFound when it has been."""
    if row.project_id is None:
        return
    query = select(Connection).where(Connection.id == row.id).with_for_update(read=True, key_share=True)
    if s.scalars(query.execution_options(populate_existing=True)).one().removed_at is not None:
        raise NotFound(f"connection {row.name} was removed", code="connection_not_found")


def _seen_by(project_id: str | None) -> ColumnElement[bool]:
    operators = Connection.project_id.is_(None) & Connection.disabled_at.is_(None)
    return operators if project_id is None else operators | ((Connection.project_id == project_id) & Connection.removed_at.is_(None))


def on_device(s: Session, device_id: str) -> list[Connection]:
    return list(s.scalars(select(Connection).where(Connection.device == device_id, Connection.disabled_at.is_(None))))
