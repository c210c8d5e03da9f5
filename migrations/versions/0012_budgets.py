"""Budgets of tokens and money, and a deadline

Revision: 0012, after 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("jobs", sa.Column("max_tokens", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("tokens_taken", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("max_cost_usd", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("usd_taken", sa.Float(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("deadline", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for name in ("deadline", "usd_taken", "max_cost_usd", "tokens_taken", "max_tokens"):
        op.drop_column("jobs", name)
