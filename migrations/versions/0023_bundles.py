"""Bundles: users' own Python, once a project by what it says

Revision: 0023, after 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "bundles",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("python", sa.Text(), nullable=False),
        sa.Column("modules", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("packages", sa.JSON(), nullable=False),
        sa.Column("pickles", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("identity", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_bundles_created_by"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_bundles_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_bundles"),
        sa.UniqueConstraint("project_id", "digest", name="uq_bundles_project_id_digest"),
    )
    op.create_index("ix_bundles_project_id_id", "bundles", ["project_id", "id"])
    op.create_index("ix_bundles_project_id_identity", "bundles", ["project_id", "identity"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("bundles")
