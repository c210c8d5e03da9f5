"""CHECK constraints by the names that the models give them: earlier revisions put the prefix twice

Revision: 0005, after 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CHECKS = {
    "alias_moves": ("moved",),
    "connections": ("kind", "max_in_flight", "source"),
    "datasets": ("row_count", "version"),
    "devices": ("acknowledged", "lease", "on_train"),
    "fine_tune_jobs": ("status",),
    "idempotency_keys": ("stored",),
    "job_events": ("level",),
    "job_steps": ("closed", "done", "name", "status"),
    "jobs": ("budget", "error", "finished", "kind", "num_threads", "status", "step"),
    "outbox": ("queue",),
    "placements": ("error", "status"),
    "projects": ("share",),
    "row_facts": ("kind", "reason"),
    "scores": ("finite", "status", "value"),
    "traces": ("source", "status"),
    "work_items": ("held", "lease_expires_at", "lease_owner", "queue", "status", "step", "units", "width"),
}


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table, names in CHECKS.items():
        for name in names:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT ck_{table}_ck_{table}_{name} TO ck_{table}_{name}")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table, names in CHECKS.items():
        for name in names:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT ck_{table}_{name} TO ck_{table}_ck_{table}_{name}")
