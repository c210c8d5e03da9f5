"""Aliases, and which rows are held out for good

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STAMP = sa.DateTime(timezone=True)
CLOCK = sa.text("clock_timestamp()")


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    _aliases()
    _alias_moves()
    _held_out_rows()


def _aliases() -> None:
    op.create_table(
        "aliases",
        *_texts("id", "project_id", "program_name", "alias", "artifact_id"),
        sa.Column("moved_by", sa.Text()),
        sa.Column("created_at", STAMP, server_default=CLOCK, nullable=False),
        sa.Column("moved_at", STAMP, server_default=CLOCK, nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_aliases_artifact_id"),
        sa.ForeignKeyConstraint(["moved_by"], ["api_keys.id"], name="fk_aliases_moved_by"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_aliases_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_aliases"),
        sa.UniqueConstraint("project_id", "program_name", "alias", name="uq_aliases_project_id_program_name_alias"),
    )
    op.create_index("ix_aliases_project_id_id", "aliases", ["project_id", "id"], unique=False)
    op.create_index("ix_aliases_artifact_id", "aliases", ["artifact_id"], unique=False)


def _alias_moves() -> None:
    op.create_table(
        "alias_moves",
        *_texts("id", "project_id", "program_name", "alias"),
        sa.Column("artifact_id", sa.Text()),
        sa.Column("previous_artifact_id", sa.Text()),
        sa.Column("moved_by", sa.Text()),
        sa.Column("moved_at", STAMP, server_default=CLOCK, nullable=False),
        sa.CheckConstraint("artifact_id IS NOT NULL OR previous_artifact_id IS NOT NULL", name="ck_alias_moves_moved"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_alias_moves_artifact_id"),
        sa.ForeignKeyConstraint(["moved_by"], ["api_keys.id"], name="fk_alias_moves_moved_by"),
        sa.ForeignKeyConstraint(["previous_artifact_id"], ["artifacts.id"], name="fk_alias_moves_previous_artifact_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_alias_moves_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
    )
    columns = ["project_id", "program_name", "alias", "id"]
    op.create_index("ix_alias_moves_project_id_program_name_alias_id", "alias_moves", columns, unique=False)


def _held_out_rows() -> None:
    op.create_table(
        "held_out_rows",
        *_texts("artifact_id", "digest"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_held_out_rows_artifact_id"),
        sa.PrimaryKeyConstraint("artifact_id", "digest", name="pk_held_out_rows"),
    )


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("held_out_rows", "alias_moves", "aliases"):
        op.drop_table(table)
