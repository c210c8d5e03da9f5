"""The rules of the revision before, held against the rows that were there: read beside running writers

Revision: 0010, after 0009
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NOT_VALID = text("""
SELECT conrelid::regclass::text, conname FROM pg_constraint
 WHERE contype = 'c' AND NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1, 2
""")


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table, name in op.get_bind().execute(_NOT_VALID).all():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """What holds for all rows holds for the new ones."""
