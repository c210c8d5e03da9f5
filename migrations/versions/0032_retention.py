"""What retention has removed: rollouts by month, and jobs without events

Revision: 0032, after 0031
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "removed_rollouts",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("rollouts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "month", name="pk_removed_rollouts"),
    )
    op.add_column("jobs", sa.Column("events_removed_at", sa.DateTime(timezone=True), nullable=True))
    over = "finished_at IS NOT NULL AND erased_at IS NULL"
    op.create_index("ix_jobs_with_details", "jobs", ["project_id", "finished_at"], postgresql_where=sa.text(over))
    op.create_index(
        "ix_jobs_with_events", "jobs", ["project_id", "finished_at"], postgresql_where=sa.text(f"{over} AND events_removed_at IS NULL")
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_jobs_with_events", "jobs")
    op.drop_index("ix_jobs_with_details", "jobs")
    op.drop_column("jobs", "events_removed_at")
    op.drop_table("removed_rollouts")
