"""Statements of erasures: what an object's rows and blobs are, and their removal some at a time."""

from __future__ import annotations

from sqlalchemy import TextClause, text

from distill.db import readable

AT_ONCE = 5000

TURN = text("SELECT pg_try_advisory_xact_lock(hashtextextended('erasures', 0))")
"""Held while erasures are carried out, so that one process at a time does it."""
UNHURRIED = text("SET LOCAL idle_in_transaction_session_timeout = 0")

_PLAN, _RESULT = readable("plan"), readable("result")
JOB_BLOBS = text(f"""
SELECT DISTINCT d FROM (
    SELECT unnest(ARRAY[training_file, validation_file, checkpoint, curve, log]) AS d FROM fine_tune_jobs WHERE job_id = :job_id
    UNION ALL SELECT f.value->>'digest' FROM checkpoints c JOIN fine_tune_jobs t ON t.id = c.fine_tune_job_id, json_each(c.files) f
               WHERE t.job_id = :job_id
    UNION ALL SELECT settings->>'probe_file' FROM models WHERE job_id = :job_id
    UNION ALL SELECT {_PLAN}->>'split' FROM jobs WHERE id = :job_id
    UNION ALL SELECT {_RESULT}->>'part' FROM work_items WHERE job_id = :job_id AND step = 'prepare') all_blobs
 WHERE d IS NOT NULL""")  # noqa: S608 - no value is put in
ERASED = text("UPDATE blobs SET unused_since = 'epoch' WHERE digest = ANY (:digests)")
"""A blob whose last row was erased is removed by the next look of the collector, not a day later."""
_TRAINING_FILES = "SELECT unnest(ARRAY[training_file, validation_file]) FROM fine_tune_jobs"
TRAINING_FILES = text(f"SELECT digest, downloads FROM blobs WHERE digest IN ({_TRAINING_FILES} WHERE job_id = ANY (:jobs))")  # noqa: S608
NEW_TRAINING_FILES = text(f"""
SELECT digest FROM blobs WHERE downloads IS NULL
   AND digest IN ({_TRAINING_FILES} WHERE project_id IN (SELECT project_id FROM files WHERE digest <> '')) ORDER BY random()""")  # noqa: S608
"""Those that are not read yet, of projects that have uploaded files; in any order, since a round reads some, and some can never be read."""
SIZE = text("SELECT COALESCE(sum(size_bytes), 0) FROM blobs WHERE digest = ANY (:digests)")

SOME_FACTS = text("""
DELETE FROM row_facts WHERE job_id = :job_id AND id IN (SELECT id FROM row_facts WHERE job_id = :job_id ORDER BY id LIMIT :many)""")
SOME_EVENTS = text("""
DELETE FROM job_events
 WHERE job_id = :job_id AND seq IN (SELECT seq FROM job_events WHERE job_id = :job_id ORDER BY seq LIMIT :many)""")
ITEMS = text("""
DELETE FROM work_items WHERE id IN (SELECT id FROM work_items WHERE job_id = :job_id FOR UPDATE SKIP LOCKED)""")
ITEMS_LEFT = text("SELECT EXISTS (SELECT 1 FROM work_items WHERE job_id = :job_id)")
"""Items that somebody else held; they are removed the next time."""
CHECKPOINTS = text("DELETE FROM checkpoints WHERE fine_tune_job_id IN (SELECT id FROM fine_tune_jobs WHERE job_id = :job_id)")
_FAULT = f"CASE WHEN error IS NOT NULL THEN CAST(:fault AS jsonb) || jsonb_build_object('code', {readable('error')}->>'code') END"
KEYS = text(f"""
UPDATE fine_tune_jobs
   SET training_file = NULL, validation_file = NULL, checkpoint = NULL, curve = NULL, log = NULL, log_tail = NULL, progress = NULL,
       error = {_FAULT}
 WHERE job_id = :job_id""")  # noqa: S608
STEPS = text(f"""
UPDATE job_steps SET error = {_FAULT}
 WHERE job_id = :job_id""")  # noqa: S608
BARE_KEYS = text("""
UPDATE fine_tune_jobs
   SET lm_key = id, predictor = '', lms = '{}', predictors = '{}', base_model = '', options = '{}', training_digest = NULL
 WHERE job_id = :job_id""")

MENTIONS: tuple[TextClause, ...] = (
    text("DELETE FROM idempotency_keys WHERE project_id = :project_id AND strpos(body, :id) > 0"),
    text("""DELETE FROM webhook_deliveries WHERE strpos(body, :id) > 0
               AND endpoint_id IN (SELECT id FROM webhook_endpoints WHERE project_id = :project_id)"""),
)
"""Answers and messages that repeat what an object held."""
_NAMES_JOB = """EXISTS (
    SELECT 1 FROM string_to_table(m.body, 'job-') AS named(rest)
     WHERE 'cjob-' || left(rest, 26) = ANY (:jobs) OR 'ftjob-' || left(rest, 26) = ANY (:jobs))"""
MENTIONS_OF_JOBS: tuple[TextClause, ...] = (
    text(f"DELETE FROM idempotency_keys m WHERE project_id = :project_id AND {_NAMES_JOB}"),  # noqa: S608 - no value is put in
    text(f"""DELETE FROM webhook_deliveries m WHERE {_NAMES_JOB}
               AND endpoint_id IN (SELECT id FROM webhook_endpoints WHERE project_id = :project_id)"""),  # noqa: S608
)
"""As `MENTIONS`, of many jobs: each text is read once."""
_ERASED_SINCE = """EXISTS (
    SELECT 1 FROM string_to_table(m.body, 'job-') AS named(rest)
      JOIN jobs j ON j.id = ANY (ARRAY['cjob-' || left(rest, 26), 'ftjob-' || left(rest, 26)])
     WHERE j.project_id = :project_id AND j.erased_at >= m.created_at)"""
MENTIONS_OF_ERASED_JOBS: tuple[TextClause, ...] = (
    text(f"DELETE FROM idempotency_keys m WHERE project_id = :project_id AND {_ERASED_SINCE}"),  # noqa: S608 - no value is put in
    text(f"""DELETE FROM webhook_deliveries m WHERE {_ERASED_SINCE}
               AND endpoint_id IN (SELECT id FROM webhook_endpoints WHERE project_id = :project_id)"""),  # noqa: S608
)
"""As `MENTIONS_OF_JOBS`, of all jobs that were erased. What was said after a job was erased repeats nothing of it."""

TRACES_OF_INPUTS = text("SELECT digest FROM traces WHERE project_id = :project_id AND inputs_digest = ANY (:inputs)")
TRACES_OF_JOB = text("""
SELECT digest FROM traces WHERE project_id = :project_id AND job_id = :job_id
UNION SELECT f.trace_digest FROM row_facts f JOIN traces t ON t.project_id = :project_id AND t.digest = f.trace_digest
 WHERE f.job_id = :job_id AND f.kind = 'rollout'""")
"""Those that it paid for, and those that it took from others."""
USED_ELSEWHERE = text("""
SELECT DISTINCT trace_digest FROM row_facts
 WHERE kind = 'rollout' AND trace_digest = ANY (:traces)
   AND job_id IN (SELECT id FROM jobs WHERE project_id = :project_id AND erased_at IS NULL AND deleted_at IS NULL
                     AND trainset_id IS DISTINCT FROM :object_id AND valset_id IS DISTINCT FROM :object_id)""")
USED_BY_OTHERS = text("""
SELECT DISTINCT trace_digest FROM row_facts
 WHERE kind = 'rollout' AND trace_digest = ANY (:traces)
   AND job_id IN (SELECT id FROM jobs WHERE project_id = :project_id AND id <> :job_id AND erased_at IS NULL AND deleted_at IS NULL)""")
DROP_SCORES = text("""
DELETE FROM scores WHERE project_id = :project_id AND trace_digest = ANY (:traces) AND example_digest = ANY (:examples)""")
"""Of traces that stay: what a metric said of them beside a row that goes may quote its labels."""
PROBES = text("""
UPDATE models SET settings = CAST(CAST(settings AS jsonb) - 'probe_file' AS json)
 WHERE job_id = :job_id AND settings->>'probe_file' IS NOT NULL""")
HELD_OUT_OF = text("DELETE FROM held_out_rows WHERE artifact_id = ANY (:artifacts)")
DROP_TRACES: tuple[TextClause, ...] = (
    text("DELETE FROM scores WHERE project_id = :project_id AND trace_digest = ANY (:traces)"),
    text("DELETE FROM trace_retries WHERE project_id = :project_id AND (digest = ANY (:traces) OR retry = ANY (:traces))"),
)
DROP_TRACE = text("""
WITH gone AS (DELETE FROM traces WHERE project_id = :project_id AND digest = ANY (:traces) RETURNING created_at),
counted AS (
  INSERT INTO removed_rollouts (project_id, month, rollouts)
  SELECT CAST(:project_id AS text), CAST(date_trunc('month', created_at AT TIME ZONE 'UTC') AS date), count(*) FROM gone GROUP BY 2
  ON CONFLICT (project_id, month) DO UPDATE SET rollouts = removed_rollouts.rollouts + excluded.rollouts)
SELECT count(*) FROM gone""")
"""Counts them by month, for the project's usage: what was used stays used."""
LOOKED_AT = text("CREATE TEMPORARY TABLE looked_at (digest text PRIMARY KEY) ON COMMIT DROP")
"""The traces that a dry run has found so far: a big dataset has more than a process may hold."""
LOOK_AT = text("INSERT INTO looked_at SELECT unnest(CAST(:traces AS text[])) ON CONFLICT DO NOTHING")
LOOKED_AT_SIZE = text("""
SELECT count(*), COALESCE(sum(octet_length(body)), 0) FROM traces
 WHERE project_id = :project_id AND digest IN (SELECT digest FROM looked_at)""")
TRACES_SIZE = text("SELECT COALESCE(sum(octet_length(body)), 0) FROM traces WHERE project_id = :project_id AND digest = ANY (:traces)")
HELD_OUT = text("""
DELETE FROM held_out_rows WHERE digest = ANY (:inputs)
   AND artifact_id IN (SELECT a.id FROM artifacts a JOIN jobs j ON j.id = a.job_id
                        WHERE :object_id IN (j.trainset_id, j.valset_id))
""")

PROJECT_SOME: tuple[TextClause, ...] = (
    text("""
DELETE FROM scores WHERE project_id = :project_id
   AND trace_digest IN (SELECT trace_digest FROM scores WHERE project_id = :project_id LIMIT :many)"""),
    text("""
DELETE FROM trace_retries WHERE project_id = :project_id
   AND digest IN (SELECT digest FROM trace_retries WHERE project_id = :project_id LIMIT :many)"""),
    text("""
DELETE FROM traces WHERE project_id = :project_id
   AND digest IN (SELECT digest FROM traces WHERE project_id = :project_id LIMIT :many)"""),
    text("""
DELETE FROM lm_usage WHERE project_id = :project_id
   AND item_id IN (SELECT item_id FROM lm_usage WHERE project_id = :project_id LIMIT :many)"""),
)
PROJECT_REST: tuple[TextClause, ...] = (
    text("DELETE FROM idempotency_keys WHERE project_id = :project_id"),
    text("DELETE FROM browser_sessions WHERE key_id IN (SELECT id FROM api_keys WHERE project_id = :project_id)"),
    text("DELETE FROM webhook_endpoints WHERE project_id = :project_id"),
    text("DELETE FROM aliases WHERE project_id = :project_id"),
    text("DELETE FROM alias_moves WHERE project_id = :project_id"),
    text("DELETE FROM held_out_rows WHERE artifact_id IN (SELECT id FROM artifacts WHERE project_id = :project_id)"),
    text("DELETE FROM artifacts WHERE project_id = :project_id"),
    text("DELETE FROM placements WHERE model_id IN (SELECT id FROM models WHERE project_id = :project_id)"),
    text("DELETE FROM models WHERE project_id = :project_id"),
    text("DELETE FROM checkpoints WHERE fine_tune_job_id IN (SELECT id FROM fine_tune_jobs WHERE project_id = :project_id)"),
    text("DELETE FROM work_items WHERE job_id IN (SELECT id FROM jobs WHERE project_id = :project_id)"),
    text("DELETE FROM fine_tune_jobs WHERE project_id = :project_id"),
    text("DELETE FROM outbox WHERE job_id IN (SELECT id FROM jobs WHERE project_id = :project_id)"),
    text("DELETE FROM jobs WHERE project_id = :project_id"),
    text("DELETE FROM datasets WHERE project_id = :project_id"),
    text("DELETE FROM files WHERE project_id = :project_id"),
    text("DELETE FROM removed_rollouts WHERE project_id = :project_id"),
    text("DELETE FROM programs WHERE project_id = :project_id"),
    text("DELETE FROM metrics WHERE project_id = :project_id"),
    text("DELETE FROM bundles WHERE project_id = :project_id"),
    text("DELETE FROM connections WHERE project_id = :project_id"),
    text("DELETE FROM audit_log WHERE project_id = :project_id"),
    text("DELETE FROM api_keys WHERE project_id = :project_id"),
    text("DELETE FROM projects WHERE id = :project_id"),
)
STILL_LOADED = text("""
SELECT count(*) FROM placements p JOIN models m ON m.id = p.model_id JOIN connections c ON c.id = p.connection_id
 WHERE m.project_id = :project_id AND p.status <> 'gone' AND c.disabled_at IS NULL""")
COUNTS = {
    "jobs": text("SELECT count(*) FROM jobs WHERE project_id = :project_id"),
    "datasets": text("SELECT count(*) FROM datasets WHERE project_id = :project_id"),
    "traces": text("SELECT count(*) FROM traces WHERE project_id = :project_id"),
    "artifacts": text("SELECT count(*) FROM artifacts WHERE project_id = :project_id"),
    "models": text("SELECT count(*) FROM models WHERE project_id = :project_id"),
    "files": text("SELECT count(*) FROM files WHERE project_id = :project_id"),
    "programs": text("SELECT count(*) FROM programs WHERE project_id = :project_id"),
    "api_keys": text("SELECT count(*) FROM api_keys WHERE project_id = :project_id"),
    "connections": text("SELECT count(*) FROM connections WHERE project_id = :project_id"),
}
