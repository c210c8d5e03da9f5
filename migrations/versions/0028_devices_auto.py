"""Devices on which the memory decides whether the LM host goes on while a model is trained

Revision: 0028, after 0027
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("devices", sa.Column("auto", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("devices", sa.Column("beside_fence", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("devices", "beside_fence")
    op.drop_column("devices", "auto")
