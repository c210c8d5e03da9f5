"""Devices that a trainer and an LM host share: a fenced lease for the train item, acknowledged by the host's agent.

With `share` the item that leases a device (`acquire`) may use it at once, beside the host. With `pause` there is a hand-over: the agent
sees `wanted`, drains its host, frees memory and acknowledges; the item waits for `granted`. When the lease ends, by publish, release or
reaper, the agent takes the room back. Until then the host's connections are waiting, and nothing that needs them is claimable. With
`auto` a lease begins beside the host, and its holder asks for a hand-over (`take_alone`) where the memory is too small for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from distill.db import Session

_ENSURE = text("INSERT INTO devices (id, auto) VALUES (:id, true) ON CONFLICT (id) DO NOTHING")
# Under `auto`, on_train is 'pause': processes of an earlier version, which know no `auto`, hand the device over.
_CONFIGURE = text("""
INSERT INTO devices (id, on_train, auto) VALUES (:id, :on_train, :auto)
ON CONFLICT (id) DO UPDATE SET on_train = EXCLUDED.on_train, auto = EXCLUDED.auto
 WHERE (devices.on_train, devices.auto) <> (EXCLUDED.on_train, EXCLUDED.auto)
""")
_ACQUIRE = text("""
UPDATE devices d SET item_id = :item_id, fence = d.fence + CASE WHEN o.goes_on THEN 0 ELSE 1 END,
       lease_expires_at = clock_timestamp() + make_interval(secs => :seconds),
       acknowledged_at = CASE WHEN o.goes_on THEN d.acknowledged_at END,
       beside_fence = CASE WHEN o.goes_on THEN d.beside_fence WHEN d.auto THEN d.fence + 1 END
  FROM (SELECT id, COALESCE(item_id = :item_id AND lease_expires_at > clock_timestamp(), false) AS goes_on
          FROM devices WHERE id = :id FOR UPDATE) o
 WHERE d.id = o.id AND (d.item_id IS NULL OR d.item_id = :item_id OR d.lease_expires_at < clock_timestamp())
RETURNING d.id
""")
_RENEW = text("UPDATE devices SET lease_expires_at = clock_timestamp() + make_interval(secs => :seconds) WHERE item_id = :item_id")
_FREE = text("UPDATE devices SET item_id = NULL, lease_expires_at = NULL, acknowledged_at = NULL WHERE item_id = :item_id RETURNING id")
_STATE = text("""
SELECT id, fence, CASE WHEN auto THEN 'auto' ELSE on_train END AS on_train, item_id, acknowledged_at IS NOT NULL AS acknowledged,
       COALESCE(beside_fence = fence, false) AS beside, item_id IS NOT NULL AND lease_expires_at > clock_timestamp() AS leased
  FROM devices WHERE id = :id
""")
GRANTED = """
(d.item_id = w.id AND d.lease_expires_at > clock_timestamp()
 AND (d.acknowledged_at IS NOT NULL OR d.beside_fence = d.fence OR d.on_train = 'share' AND NOT d.auto))
"""
"""As `DeviceState.granted`, for a device `d` and the work item `w` that may hold it."""
_TAKE_ALONE = text("UPDATE devices SET beside_fence = NULL WHERE id = :id AND fence = :fence")
_ACKNOWLEDGE = text("""
UPDATE devices SET acknowledged_at = clock_timestamp(), agent_seen_at = clock_timestamp()
 WHERE id = :id AND fence = :fence AND item_id IS NOT NULL RETURNING id
""")
_WAIT = text("UPDATE connections SET waiting_since = COALESCE(waiting_since, clock_timestamp()) WHERE device = :id")
_RESUME = text("""
UPDATE connections SET waiting_since = NULL, limited_reason = NULL, limited_since = NULL, limited_until = NULL, limited_times = 0
 WHERE device = :id AND waiting_since IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM devices WHERE id = :id AND acknowledged_at IS NOT NULL AND lease_expires_at > clock_timestamp())
RETURNING id
""")
_DUE_AGAIN = text("""
UPDATE work_items SET run_after = clock_timestamp()
 WHERE id IN (SELECT id FROM work_items
               WHERE status = 'queued' AND run_after <= clock_timestamp() AND connections && CAST(:connections AS text[])
                 FOR NO KEY UPDATE SKIP LOCKED)
""")
_LENT = text("""
SELECT c.id, COALESCE(c.own_name, c.name) AS name, to_char(c.waiting_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since,
       j.project_id, w.fine_tune_job_id
  FROM connections c
  LEFT JOIN devices d ON d.id = c.device
  LEFT JOIN work_items w ON w.id = d.item_id
  LEFT JOIN jobs j ON j.id = w.job_id
 WHERE c.waiting_since IS NOT NULL
""")
_SEEN = text("UPDATE devices SET agent_seen_at = clock_timestamp() WHERE id = :id")
_HAS_AGENT = text("SELECT agent_seen_at > clock_timestamp() - make_interval(secs => :seconds) FROM devices WHERE id = :id")


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Who has the device. `wanted`: a train item leases it and the host is to let it go, which it has not acknowledged yet.

    `beside`: under `auto`, the holder has not asked for the host's room.
    """

    id: str
    fence: int
    on_train: str
    item_id: int | None
    leased: bool
    acknowledged: bool
    beside: bool

    @property
    def wanted(self) -> bool:
        return self.leased and not self.acknowledged and not self._is_shared

    @property
    def granted(self) -> bool:
        """The lease's holder may use the device now."""
        return self.leased and (self.acknowledged or self._is_shared)

    @property
    def _is_shared(self) -> bool:
        return self.on_train == "share" or self.beside


def ensure(s: Session, device_id: str) -> None:
    s.execute(_ENSURE, {"id": device_id})


def configure(s: Session, device_id: str, on_train: str) -> None:
    """Set what happens to the LM host on a device while a model is trained there: `auto`, `pause` or `share`."""
    s.execute(_CONFIGURE, {"id": device_id, "on_train": "pause" if on_train == "auto" else on_train, "auto": on_train == "auto"})


def acquire(s: Session, device_id: str, item_id: int, seconds: float) -> DeviceState | None:
    """Lease the device for a work item; None while another item has it. Asking again renews, and tells whether it is granted.

    A lease that had run out begins anew: the host may have taken its room back.
    """
    ensure(s, device_id)
    row = s.execute(_ACQUIRE, {"id": device_id, "item_id": item_id, "seconds": seconds}).first()
    return None if row is None else state(s, device_id)


def take_alone(s: Session, device_id: str, fence: int) -> None:
    """A lease that runs beside the host asks for the host's room after all: not enough memory is free."""
    s.execute(_TAKE_ALONE, {"id": device_id, "fence": fence})


def renew(s: Session, item_id: int, seconds: float) -> None:
    """Renew whatever device this item leases; its own beat calls this."""
    s.execute(_RENEW, {"item_id": item_id, "seconds": seconds})


def release(s: Session, item_id: int) -> None:
    """End this item's lease on a device, if it has one."""
    s.execute(_FREE, {"item_id": item_id})


def state(s: Session, device_id: str) -> DeviceState:
    row = s.execute(_STATE, {"id": device_id}).first()
    return _state(row) if row else DeviceState(device_id, 0, "share", None, False, False, False)


def acknowledge(s: Session, device_id: str, fence: int) -> bool:
    """The host has freed the device: its connections wait from now on. False when the lease has ended meanwhile."""
    if s.execute(_ACKNOWLEDGE, {"id": device_id, "fence": fence}).first() is None:
        return False
    s.execute(_WAIT, {"id": device_id})
    return True


def taken_back(s: Session, device_id: str) -> None:
    """The host serves again: its connections wait no more, and what waited for them is due now, so the dispatcher hints at it.

    Does nothing for a device that is handed over: an agent may be late, and another have acted since it looked.
    """
    resumed = list(s.scalars(_RESUME, {"id": device_id}))
    if resumed:
        s.execute(_DUE_AGAIN, {"connections": resumed})


def lent(s: Session, project_id: str) -> dict[str, str]:
    """`{connection id: why its models do not answer}`, of the connections whose LM hosts have lent their device to a training.

    A training of another project is not named.
    """
    return {row.id: _why_lent(row, project_id) for row in s.execute(_LENT)}


def _why_lent(row: Row[Any], project_id: str) -> str:
    if row.project_id is None:
        return f"the LM host of {row.name} loads its models again after a training"
    who = f"fine-tune job {row.fine_tune_job_id}" if row.project_id == project_id else "a job of another project"
    since = f"has lent its device to a training since {row.since} UTC"
    return f"the LM host of {row.name} {since}, {who}; calls and jobs that need it wait until that is over"


def seen(s: Session, device_id: str) -> None:
    """The host's agent is alive; without a live agent nobody can hand over."""
    s.execute(_SEEN, {"id": device_id})


def has_agent(s: Session, device_id: str, seconds: float = 30) -> bool:
    return bool(s.execute(_HAS_AGENT, {"id": device_id, "seconds": seconds}).scalar())


def _state(row: Row[Any]) -> DeviceState:
    return DeviceState(row.id, row.fence, row.on_train, row.item_id, row.leased, row.acknowledged, row.beside)
