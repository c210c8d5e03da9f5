"""Connections: LM hosts. Rows mirror the settings file; keys stay in the relay's environment."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import func, select, update

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
_CHANGES_ANSWERS = frozenset({"kind", "base_url"})


def sync(s: Session, settings: Settings, *, disable_others: bool = True) -> None:
    """Make the table say what the settings say. A connection that left the file is disabled, never removed: jobs point at it.

    Workers pass `disable_others=False`: one that was started without the file must not take everybody's connections away.
    """
    wanted = _wanted(settings)
    # On a new database there is no row to lock yet, and API, workers and agents start together.
    s.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("connections", 0))))
    known = {row.name: row for row in s.scalars(select(Connection).with_for_update())}
    for name, values in wanted.items():
        _store(s, known.get(name), name, values, embedded=name == HOUSE and HOUSE not in settings.connections)
    gone = [row.id for name, row in known.items() if row.source == "settings" and name not in wanted and row.disabled_at is None]
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
        s.add(Connection(id=new_id("conn"), name=name, source="settings", **values))
        return
    changed = {key for key, value in values.items() if getattr(row, key) != value}
    if not changed and row.disabled_at is None:
        return
    for key in changed:
        setattr(row, key, values[key])
    if changed & _CHANGES_ANSWERS and not embedded:  # the embedded host gets another port at every start, and answers the same
        row.revision += 1
    if "device" in changed:  # the agent that would end the wait looks after another device from now on
        row.waiting_since = None
    row.disabled_at = None
    row.updated_at = func.clock_timestamp()


def list_connections(s: Session) -> list[Connection]:
    return list(s.scalars(select(Connection).where(Connection.disabled_at.is_(None)).order_by(Connection.name)))


def by_id(s: Session, connection_id: str) -> Connection:
    row = s.get(Connection, connection_id)
    if row is None:
        raise NotFound(f"no connection {connection_id}", code="connection_not_found")
    return row


def find(s: Session, name_or_id: str) -> Connection | None:
    """An enabled connection by name or id."""
    either = (Connection.name == name_or_id) | (Connection.id == name_or_id)
    return s.scalar(select(Connection).where(either, Connection.disabled_at.is_(None)))


def default(s: Session, side: Literal["student", "teacher"]) -> Connection | None:
    """The connection that a job gets when it names none for this side; with several, the first by name."""
    flag = Connection.default_student if side == "student" else Connection.default_teacher
    return s.scalar(select(Connection).where(flag, Connection.disabled_at.is_(None)).order_by(Connection.name).limit(1))


def on_device(s: Session, device_id: str) -> list[Connection]:
    return list(s.scalars(select(Connection).where(Connection.device == device_id, Connection.disabled_at.is_(None))))
