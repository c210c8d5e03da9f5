"""Work items that clients claim

Revision: 0016, after 0015
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TABLES = ("work_items", "outbox")


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    _allow("'light', 'rollouts', 'train', 'client'")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # The older code has no clients: its runners refuse such a program, and say so.
    for table in TABLES:
        op.execute(f"UPDATE {table} SET queue = 'rollouts' WHERE queue = 'client'")
    _allow("'light', 'rollouts', 'train'")


def _allow(queues: str) -> None:
    for table in TABLES:
        op.drop_constraint(f"ck_{table}_queue", table)
        op.create_check_constraint("queue", table, f"queue IN ({queues})")
