"""What a fine-tune job was trained before its last retry

Revision: 0019, after 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("fine_tune_jobs", sa.Column("earlier_seconds", sa.Float(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("fine_tune_jobs", "earlier_seconds")
