"""The line in which work is claimed: caps of projects, whose turn it was, and the indexes that a claim walks along

Revision: 0011, after 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("projects", sa.Column("max_threads", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint("max_threads", "projects", "max_threads >= 1")
    op.create_index(
        "ix_jobs_line",
        "jobs",
        ["project_id", sa.text("priority DESC"), "created_at", "id"],
        postgresql_where=sa.text("status IN ('queued', 'running') AND cancel_requested_at IS NULL AND pause_requested_at IS NULL"),
    )
    op.create_index(
        "ix_work_items_line",
        "work_items",
        ["job_id", "queue", "created_at", "id"],
        postgresql_where=sa.text("status = 'queued' AND NOT held"),
    )
    op.drop_index("ix_work_items_claimable", table_name="work_items")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_index(
        "ix_work_items_claimable",
        "work_items",
        ["queue", "priority", "id"],
        postgresql_where=sa.text("status = 'queued' AND NOT held"),
    )
    op.drop_index("ix_work_items_line", table_name="work_items")
    op.drop_index("ix_jobs_line", table_name="jobs")
    op.drop_constraint("ck_projects_max_threads", "projects")
    op.drop_column("projects", "served_at")
    op.drop_column("projects", "max_threads")
