"""Checkpoints in the blob store, and how long was trained

Revision: 0008, after 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "checkpoints",
        sa.Column("fine_tune_job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["fine_tune_job_id"], ["fine_tune_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("fine_tune_job_id", "step"),
    )
    op.add_column("fine_tune_jobs", sa.Column("trained_seconds", sa.Float(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("fine_tune_jobs", "trained_seconds")
    op.drop_table("checkpoints")
