"""Rules that hold for every status: times, leases, errors, results and counters where the status has them, and nowhere else

Rows that are there are not read while the tables are locked; the next revision does that.

Revision: 0009, after 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OVER = "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)"
HAS_BEGUN = "status NOT IN ('running', 'succeeded') OR started_at IS NOT NULL"
HAS_ERROR = "(status = 'failed') = (error IS NOT NULL)"
RULES = {
    "jobs": {
        "counters": "round >= 1 AND event_seq >= 0 AND calls_taken >= 0",
        "queued": "status IN ('created', 'cancelled') OR queued_at IS NOT NULL",
        "started": HAS_BEGUN,
        "created": "status <> 'created' OR num_nonnulls(queued_at, started_at, pause_requested_at) = 0",
        "cancelled": "status <> 'cancelled' OR cancel_requested_at IS NOT NULL",
        "not_cancelled": "status NOT IN ('succeeded', 'failed') OR cancel_requested_at IS NULL",
        "paused": "status <> 'paused' OR pause_requested_at IS NOT NULL",
        "pause_reason": "pause_reason IS NULL OR pause_requested_at IS NOT NULL",
    },
    "job_steps": {"total": "total >= 1", "finished": OVER, "error": HAS_ERROR, "started": HAS_BEGUN},
    "work_items": {
        "finished": OVER,
        "started": "status IN ('queued', 'cancelled') OR started_at IS NOT NULL",
        "leased": "status <> 'leased' OR fence > 0 AND attempts > 0",
        "result": "result IS NULL OR status = 'succeeded'",
        "no_error": "status <> 'succeeded' OR error IS NULL",
        "error": "status <> 'failed' OR error IS NOT NULL OR losses >= 3",
        "key": "(step = 'train') = (fine_tune_job_id IS NOT NULL)",
        "counters": "fence >= 0 AND losses >= 0 AND furthest >= 0 AND width >= 0 AND ordinal >= 0",
        "attempts": "attempts BETWEEN 0 AND max_attempts",
    },
    "fine_tune_jobs": {
        "finished": OVER,
        "error": HAS_ERROR,
        "started": "status <> 'running' OR started_at IS NOT NULL",
        "model": "model_id IS NULL OR status = 'succeeded'",
        "reused": "reused_from IS NULL OR model_id IS NOT NULL",
        "counters": "rows >= 0 AND validation_rows >= 0 AND checkpoint_step >= 0 AND trained_seconds >= 0",
    },
    "checkpoints": {"counters": "step >= 0 AND fence > 0"},
    "connections": {"limited_times": "limited_times >= 0 AND (limited_times = 0) = (limited_since IS NULL)"},
    "placements": {"ready": "status <> 'ready' OR ready_at IS NOT NULL", "attempts": "attempts >= 0"},
    "devices": {"fence": "fence >= 0 AND (item_id IS NULL OR fence > 0)"},
}
ONE_EACH = {"work_items": "fine_tune_job_id", "devices": "item_id"}

KEPT_BEFORE = {f"ck_{table}_{name}" for table, rules in RULES.items() for name in rules} | {
    f"uq_{table}_{column}" for table, column in ONE_EACH.items()
}
"""Rules that the code of the revision before kept already, without being told: its own tests pass under them."""


def upgrade() -> None:
    # A revision that cannot get its lock gives up, instead of stopping everybody who queues behind it.
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table, rules in RULES.items():
        for name, condition in rules.items():
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_{name} CHECK ({condition}) NOT VALID")
    for table, column in ONE_EACH.items():
        op.create_index(f"uq_{table}_{column}", table, [column], unique=True)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table, column in ONE_EACH.items():
        op.drop_index(f"uq_{table}_{column}", table)
    for table, rules in RULES.items():
        for name in rules:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")
