"""Failed traces that were run again

Revision: 0026, after 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "trace_retries",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("retry", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_trace_retries_project_id"),
        sa.PrimaryKeyConstraint("project_id", "digest", "retry", name="pk_trace_retries"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("trace_retries")
