"""Rounds of a job, and trainings that are reused

Revision: 0002, after 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("fine_tune_jobs", sa.Column("training_digest", sa.Text))
    op.add_column("fine_tune_jobs", sa.Column("reused_from", sa.Text, sa.ForeignKey("fine_tune_jobs.id")))
    op.add_column("fine_tune_jobs", sa.Column("log_tail", sa.Text))
    op.create_index(
        "ix_fine_tune_jobs_training",
        "fine_tune_jobs",
        ["project_id", "training_digest"],
        postgresql_where=sa.text("model_id IS NOT NULL"),
    )
    op.create_index("ix_fine_tune_jobs_model_id", "fine_tune_jobs", ["model_id"], postgresql_where=sa.text("model_id IS NOT NULL"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_fine_tune_jobs_model_id", "fine_tune_jobs")
    op.drop_index("ix_fine_tune_jobs_training", "fine_tune_jobs")
    op.drop_column("fine_tune_jobs", "log_tail")
    op.drop_column("fine_tune_jobs", "reused_from")
    op.drop_column("fine_tune_jobs", "training_digest")
