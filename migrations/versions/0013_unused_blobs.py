"""Since when no row points at a blob

Revision: 0013, after 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("blobs", sa.Column("unused_since", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_blobs_unused", "blobs", ["digest"], postgresql_where=sa.text("unused_since IS NOT NULL"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_blobs_unused", table_name="blobs")
    op.drop_column("blobs", "unused_since")
