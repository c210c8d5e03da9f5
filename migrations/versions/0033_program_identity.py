"""What a client tells the code of a program by, so that its runs by the client and by the server share traces

Revision: 0033, after 0032
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("programs", sa.Column("identity", sa.Text(), nullable=True))
    op.add_column("programs", sa.Column("base_digest", sa.Text(), nullable=True))
    op.create_index("ix_programs_project_id_identity", "programs", ["project_id", "identity"])
    op.create_index("ix_programs_project_id_base_digest", "programs", ["project_id", "base_digest"])
    # The text is searched, not read as JSON: PostgreSQL refuses to read one that has a \\u0000 anywhere. A quote within a string is escaped.
    op.execute("""
UPDATE programs p SET identity = b.identity FROM bundles b
 WHERE b.project_id = p.project_id AND b.identity IS NOT NULL
   AND position('"reference":{"target":' IN p.spec) > 0 AND position('"bundle":"' || b.digest || '"' IN p.spec) > 0""")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_programs_project_id_base_digest", table_name="programs")
    op.drop_index("ix_programs_project_id_identity", table_name="programs")
    op.drop_column("programs", "base_digest")
    op.drop_column("programs", "identity")
