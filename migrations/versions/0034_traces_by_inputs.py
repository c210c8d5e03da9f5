"""Traces by the digest of their inputs, for deletions of datasets

Revision: 0034, after 0033
"""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_index("ix_traces_project_id_inputs_digest", "traces", ["project_id", "inputs_digest"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_traces_project_id_inputs_digest", table_name="traces")
