"""No statement, not even one by hand, leaves a row whose columns do not fit its status: PostgreSQL refuses it by the rule's name."""

from typing import LiteralString

import psycopg
import pytest
from sqlalchemy import make_url

from distill.catalog import artifacts, devices, fine_tuned
from distill.db import unit_of_work
from distill.jobs.models import FineTuneJob, Job
from distill.storage import FolderStore
from stack.servers import Servers
from tests.integration.core.every_status import fill
from tests.support import databases

TABLES = (
    "jobs", "job_steps", "work_items", "fine_tune_jobs", "checkpoints", "job_events", "outbox", "connections", "models", "placements",
    "devices", "artifacts",
)  # fmt: skip
RULES = """
SELECT conname FROM pg_constraint WHERE conrelid::regclass::text = ANY (%(tables)s) AND contype IN ('c', 'u')
UNION
SELECT i.indexrelid::regclass::text FROM pg_index i
 WHERE i.indrelid::regclass::text = ANY (%(tables)s) AND i.indisunique AND NOT i.indisprimary
"""
JOBS: list[tuple[str, LiteralString]] = [
    ("ck_jobs_status", "UPDATE jobs SET status = 'done' WHERE status = 'running'"),
    ("ck_jobs_kind", "UPDATE jobs SET kind = 'other'"),
    ("ck_jobs_step", "UPDATE jobs SET step = 'other'"),
    ("ck_jobs_finished", "UPDATE jobs SET finished_at = now() WHERE status = 'running'"),
    ("ck_jobs_finished", "UPDATE jobs SET finished_at = NULL WHERE status = 'succeeded'"),
    ("ck_jobs_error", "UPDATE jobs SET error = '{}' WHERE status = 'running'"),
    ("ck_jobs_error", "UPDATE jobs SET error = NULL WHERE status = 'failed'"),
    ("ck_jobs_num_threads", "UPDATE jobs SET num_threads = 0"),
    ("ck_jobs_budget", "UPDATE jobs SET max_calls = 1, calls_taken = 2"),
    ("ck_jobs_counters", "UPDATE jobs SET round = 0"),
    ("ck_jobs_counters", "UPDATE jobs SET event_seq = -1"),
    ("ck_jobs_counters", "UPDATE jobs SET calls_taken = -1"),
    ("ck_jobs_queued", "UPDATE jobs SET queued_at = NULL WHERE status = 'queued'"),
    ("ck_jobs_started", "UPDATE jobs SET started_at = NULL WHERE status = 'running'"),
    ("ck_jobs_created", "UPDATE jobs SET started_at = now() WHERE status = 'created'"),
    ("ck_jobs_created", "UPDATE jobs SET pause_requested_at = now() WHERE status = 'created'"),
    ("ck_jobs_cancelled", "UPDATE jobs SET cancel_requested_at = NULL WHERE status = 'cancelled'"),
    ("ck_jobs_not_cancelled", "UPDATE jobs SET cancel_requested_at = now() WHERE status = 'succeeded'"),
    ("ck_jobs_not_cancelled", "UPDATE jobs SET cancel_requested_at = now() WHERE status = 'failed'"),
    ("ck_jobs_paused", "UPDATE jobs SET pause_requested_at = NULL, pause_reason = NULL WHERE status = 'paused'"),
    ("ck_jobs_pause_reason", "UPDATE jobs SET pause_reason = '{}' WHERE status = 'running'"),
    ("ck_job_steps_name", "UPDATE job_steps SET name = 'other'"),
    ("ck_job_steps_status", "UPDATE job_steps SET status = 'done' WHERE status = 'running'"),
    ("ck_job_steps_done", "UPDATE job_steps SET done = total + 1 WHERE status = 'running'"),
    ("ck_job_steps_done", "UPDATE job_steps SET done = -1 WHERE status = 'running'"),
    ("ck_job_steps_closed", "UPDATE job_steps SET done = 0 WHERE status = 'succeeded'"),
    ("ck_job_steps_total", "UPDATE job_steps SET done = 0, total = 0"),
    ("ck_job_steps_finished", "UPDATE job_steps SET finished_at = now() WHERE status = 'running'"),
    ("ck_job_steps_finished", "UPDATE job_steps SET finished_at = NULL WHERE status = 'cancelled'"),
    ("ck_job_steps_error", "UPDATE job_steps SET error = '{}' WHERE status = 'cancelled'"),
    ("ck_job_steps_error", "UPDATE job_steps SET error = NULL WHERE status = 'failed'"),
    ("ck_job_steps_started", "UPDATE job_steps SET started_at = NULL WHERE status = 'running'"),
    ("ck_job_events_level", "UPDATE job_events SET level = 'loud'"),
    ("ck_outbox_queue", "UPDATE outbox SET queue = 'other'"),
    ("uq_artifacts_job_id", "INSERT INTO artifacts SELECT 'a', project_id, job_id, name, digest, manifest, files, 1 FROM artifacts"),
]
ITEMS: list[tuple[str, LiteralString]] = [
    ("ck_work_items_step", "UPDATE work_items SET step = 'other' WHERE fine_tune_job_id IS NULL"),
    ("ck_work_items_queue", "UPDATE work_items SET queue = 'other'"),
    ("ck_work_items_status", "UPDATE work_items SET status = 'done', finished_at = NULL, result = NULL WHERE status = 'succeeded'"),
    ("ck_work_items_lease_owner", "UPDATE work_items SET lease_owner = 'ada' WHERE status = 'queued'"),
    ("ck_work_items_lease_owner", "UPDATE work_items SET lease_owner = NULL WHERE status = 'leased'"),
    ("ck_work_items_lease_expires_at", "UPDATE work_items SET lease_expires_at = now() WHERE status = 'succeeded'"),
    ("ck_work_items_lease_expires_at", "UPDATE work_items SET lease_expires_at = NULL WHERE status = 'leased'"),
    ("ck_work_items_width", "UPDATE work_items SET width = 1 WHERE status = 'queued'"),
    ("ck_work_items_width", "UPDATE work_items SET width = 0 WHERE status = 'leased'"),
    ("ck_work_items_held", "UPDATE work_items SET held = true WHERE status = 'succeeded'"),
    ("ck_work_items_units", "UPDATE work_items SET units = -1"),
    ("ck_work_items_finished", "UPDATE work_items SET finished_at = now() WHERE status = 'leased'"),
    ("ck_work_items_finished", "UPDATE work_items SET finished_at = NULL WHERE status = 'failed'"),
    ("ck_work_items_started", "UPDATE work_items SET started_at = NULL WHERE status = 'leased'"),
    ("ck_work_items_leased", "UPDATE work_items SET fence = 0 WHERE status = 'leased'"),
    ("ck_work_items_leased", "UPDATE work_items SET attempts = 0 WHERE status = 'leased'"),
    ("ck_work_items_result", "UPDATE work_items SET result = '{}' WHERE status = 'leased'"),
    ("ck_work_items_no_error", "UPDATE work_items SET error = '{}' WHERE status = 'succeeded'"),
    ("ck_work_items_error", "UPDATE work_items SET error = NULL WHERE status = 'failed'"),
    ("ck_work_items_key", "UPDATE work_items SET fine_tune_job_id = NULL WHERE step = 'train'"),
    ("ck_work_items_key", "UPDATE work_items SET fine_tune_job_id = 'ftjob-1' WHERE step = 'validate'"),
    ("ck_work_items_counters", "UPDATE work_items SET fence = -1 WHERE status = 'queued'"),
    ("ck_work_items_counters", "UPDATE work_items SET losses = -1"),
    ("ck_work_items_counters", "UPDATE work_items SET furthest = -1"),
    ("ck_work_items_counters", "UPDATE work_items SET width = -1 WHERE status = 'queued'"),
    ("ck_work_items_counters", "UPDATE work_items SET ordinal = -1"),
    ("ck_work_items_attempts", "UPDATE work_items SET attempts = max_attempts + 1"),
    ("ck_work_items_attempts", "UPDATE work_items SET attempts = -1"),
    (
        "uq_work_items_fine_tune_job_id",
        "UPDATE work_items SET fine_tune_job_id = (SELECT max(id) FROM fine_tune_jobs) WHERE fine_tune_job_id IS NOT NULL",
    ),
    ("ck_fine_tune_jobs_status", "UPDATE fine_tune_jobs SET status = 'done' WHERE status = 'running'"),
    ("uq_fine_tune_jobs_job_id_lm_key_predictor", "UPDATE fine_tune_jobs SET lm_key = 'same'"),
    ("ck_fine_tune_jobs_finished", "UPDATE fine_tune_jobs SET finished_at = now() WHERE status = 'running'"),
    ("ck_fine_tune_jobs_finished", "UPDATE fine_tune_jobs SET finished_at = NULL WHERE status = 'succeeded' AND model_id IS NULL"),
    ("ck_fine_tune_jobs_error", "UPDATE fine_tune_jobs SET error = '{}' WHERE status = 'cancelled'"),
    ("ck_fine_tune_jobs_error", "UPDATE fine_tune_jobs SET error = NULL WHERE status = 'failed'"),
    ("ck_fine_tune_jobs_started", "UPDATE fine_tune_jobs SET started_at = NULL WHERE status = 'running'"),
    ("ck_fine_tune_jobs_model", "UPDATE fine_tune_jobs SET model_id = 'm' WHERE status = 'running'"),
    ("ck_fine_tune_jobs_reused", "UPDATE fine_tune_jobs SET reused_from = id WHERE status = 'running'"),
    ("ck_fine_tune_jobs_counters", "UPDATE fine_tune_jobs SET rows = -1"),
    ("ck_fine_tune_jobs_counters", "UPDATE fine_tune_jobs SET validation_rows = -1"),
    ("ck_fine_tune_jobs_counters", "UPDATE fine_tune_jobs SET checkpoint_step = -1"),
    ("ck_fine_tune_jobs_counters", "UPDATE fine_tune_jobs SET trained_seconds = -1"),
    ("ck_checkpoints_counters", "INSERT INTO checkpoints SELECT min(id), -1, 1, '{}' FROM fine_tune_jobs"),
    ("ck_checkpoints_counters", "INSERT INTO checkpoints SELECT min(id), 1, 0, '{}' FROM fine_tune_jobs"),
]
OWN: LiteralString = "project_id = (SELECT min(id) FROM projects), own_name = 'ours'"
LIMITED: LiteralString = "limited_since = now(), limited_until = now(), limited_times"
SERVING: list[tuple[str, LiteralString]] = [
    ("ck_connections_kind", "UPDATE connections SET kind = 'other'"),
    ("ck_connections_source", "UPDATE connections SET source = 'other'"),
    ("ck_connections_max_in_flight", "UPDATE connections SET max_in_flight = 0"),
    ("ck_connections_limited_reason", f"UPDATE connections SET limited_reason = 'other', {LIMITED} = 1"),
    ("ck_connections_limited", "UPDATE connections SET limited_reason = 'unavailable'"),
    ("ck_connections_limited_times", f"UPDATE connections SET limited_reason = 'unavailable', {LIMITED} = 0"),
    ("ck_connections_limited_times", "UPDATE connections SET limited_times = 1"),
    ("ck_connections_own_name", "UPDATE connections SET own_name = 'ours'"),
    ("ck_connections_own", "UPDATE connections SET removed_at = now()"),
    ("ck_connections_removed", f"UPDATE connections SET {OWN}, removed_at = now(), sealed_key = 'x'"),
    ("uq_connections_own_name", f"UPDATE connections SET {OWN}"),
    ("uq_connections_name", "UPDATE connections SET name = 'same'"),
    ("uq_models_fine_tune_job_id", "UPDATE models SET fine_tune_job_id = (SELECT max(fine_tune_job_id) FROM models)"),
    ("ck_placements_status", "UPDATE placements SET status = 'other'"),
    ("ck_placements_error", "UPDATE placements SET status = 'failed'"),
    ("ck_placements_error", "UPDATE placements SET error = 'no'"),
    ("ck_placements_ready", "UPDATE placements SET status = 'ready'"),
    ("ck_placements_attempts", "UPDATE placements SET attempts = -1"),
    ("uq_placements_model_id_connection_id", "UPDATE placements SET model_id = (SELECT max(model_id) FROM placements)"),
    ("ck_devices_on_train", "UPDATE devices SET on_train = 'other'"),
    ("ck_devices_lease", "UPDATE devices SET fence = 1, item_id = (SELECT min(id) FROM work_items) WHERE id = 'cpu-0'"),
    ("ck_devices_lease", "UPDATE devices SET lease_expires_at = now()"),
    ("ck_devices_acknowledged", "UPDATE devices SET acknowledged_at = now()"),
    ("ck_devices_fence", "UPDATE devices SET fence = -1"),
    ("ck_devices_fence", "UPDATE devices SET fence = 0, item_id = (SELECT min(id) FROM work_items), lease_expires_at = now()"),
    ("uq_devices_item_id", "UPDATE devices SET fence = 1, item_id = (SELECT min(id) FROM work_items), lease_expires_at = now()"),
]
CASES = [*JOBS, *ITEMS, *SERVING]


@pytest.fixture(scope="module")
def live(clone: str, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database with rows in every status; nothing that is tried on it is committed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", clone)
        databases.forget_settings()
        fill(FolderStore(tmp_path_factory.mktemp("blobs")))
        _products()
        databases.forget_settings()
    return make_url(clone).set(drivername="postgresql").render_as_string(hide_password=False)


def _products() -> None:
    """An artifact, two models that are wanted, and a second device."""
    with unit_of_work() as s:
        devices.ensure(s, "gpu-0")
        done = s.query(Job).filter(Job.status == "succeeded").first()
        assert done is not None
        artifacts.create(s, project_id=done.project_id, job_id=done.id, name="p", digest="d", manifest="{}", files={})
        for key in s.query(FineTuneJob).order_by(FineTuneJob.id).limit(2):
            fine_tuned.create(
                s, model_id=f"model-{key.id}", project_id=key.project_id, job_id=key.job_id, fine_tune_job_id=key.id, program_name="p",
                connection_id=key.connection_id, predictors=[], base_model="tiny", base_model_digest=None, files={}, settings={},
            )  # fmt: skip
            fine_tuned.want(s, f"model-{key.id}", key.connection_id)


class TestStatusRules:
    @pytest.mark.parametrize(("rule", "statement"), CASES, ids=[f"{rule}-{number}" for number, (rule, _) in enumerate(CASES)])
    def test_refused(self, live: str, rule: str, statement: LiteralString) -> None:
        with psycopg.connect(live) as connection, pytest.raises(psycopg.errors.IntegrityError) as refused:
            connection.execute(statement)
        assert refused.value.diag.constraint_name == rule

    def test_every_rule_is_tried(self, live: str) -> None:
        with psycopg.connect(live) as connection:
            rules = {name for (name,) in connection.execute(RULES, {"tables": list(TABLES)})}
        assert rules == {rule for rule, _ in CASES}
