"""Connections of a project's own

Revision: 0021, after 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_WHEN = sa.DateTime(timezone=True)
_COLUMNS = ("project_id", "own_name", "sealed_key", "key_hint", "removed_at", "created_by")


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("connections", sa.Column("project_id", sa.Text()))
    op.add_column("connections", sa.Column("own_name", sa.Text()))
    op.add_column("connections", sa.Column("sealed_key", sa.LargeBinary()))
    op.add_column("connections", sa.Column("key_hint", sa.Text()))
    op.add_column("connections", sa.Column("removed_at", _WHEN))
    op.add_column("connections", sa.Column("created_by", sa.Text()))
    op.create_foreign_key("fk_connections_project_id", "connections", "projects", ["project_id"], ["id"])
    op.create_foreign_key("fk_connections_created_by", "connections", "api_keys", ["created_by"], ["id"])
    op.create_check_constraint("own_name", "connections", "(project_id IS NULL) = (own_name IS NULL)")
    own = "project_id IS NOT NULL OR num_nonnulls(sealed_key, key_hint, created_by, removed_at) = 0"
    op.create_check_constraint("own", "connections", own)
    op.create_check_constraint("removed", "connections", "removed_at IS NULL OR sealed_key IS NULL")
    op.create_index(
        "uq_connections_own_name", "connections", ["project_id", "own_name"], unique=True, postgresql_where=sa.text("removed_at IS NULL")
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("uq_connections_own_name", table_name="connections")
    for rule in ("removed", "own", "own_name"):
        op.drop_constraint(rule, "connections", type_="check")
    for column in _COLUMNS:
        op.drop_column("connections", column)
