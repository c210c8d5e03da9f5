"""Connections that wait, and workers that were heard of

Revision: 0007, after 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REASONS = "limited_reason IN ('rate_limited', 'quota_exhausted', 'unavailable')"
CLOCK = sa.text("clock_timestamp()")


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("connections", sa.Column("limited_reason", sa.Text()))
    op.add_column("connections", sa.Column("limited_since", sa.DateTime(timezone=True)))
    op.add_column("connections", sa.Column("limited_until", sa.DateTime(timezone=True)))
    op.add_column("connections", sa.Column("limited_times", sa.Integer(), server_default="0", nullable=False))
    op.create_check_constraint("limited_reason", "connections", REASONS)
    op.create_check_constraint("limited", "connections", "num_nonnulls(limited_reason, limited_since, limited_until) IN (0, 3)")
    op.add_column("work_items", sa.Column("waits_since", sa.DateTime(timezone=True)))
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("capabilities", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=CLOCK, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=CLOCK, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("workers")
    op.drop_column("work_items", "waits_since")
    for name in ("limited", "limited_reason"):
        op.drop_constraint(name, "connections", type_="check")
    for name in ("limited_times", "limited_until", "limited_since", "limited_reason"):
        op.drop_column("connections", name)
