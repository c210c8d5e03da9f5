"""Statements of retention: what of a project is older than it keeps things.

Ids follow the clock of who made them: by them old rows are found along an index, and `created_at`, of the database's clock, decides.
"""

from __future__ import annotations

from sqlalchemy import text

from distill.db import readable

TURN = text("SELECT pg_try_advisory_xact_lock(hashtextextended('retention', 0))")
DUE = text("""
SELECT NOT EXISTS (SELECT 1 FROM server_meta WHERE key = 'retained_at'
                      AND CAST(value AS timestamptz) > clock_timestamp() - make_interval(secs => :seconds))""")
DONE = text("""
INSERT INTO server_meta (key, value) VALUES ('retained_at', CAST(clock_timestamp() AS text))
ON CONFLICT (key) DO UPDATE SET value = excluded.value""")

STARTING = text("""
SELECT EXISTS (SELECT 1 FROM jobs
                WHERE project_id = :project_id AND kind = 'compile' AND plan IS NULL AND (status IN ('queued', 'running')
                   OR status IN ('created', 'paused') AND derived_from IS NULL AND strpos(spec, '"stored_only"\\:true') > 0))""")
"""Whether it is not known yet which traces an open job will take. One that waits to be started and has no other traces counts, too."""
_PLAN = readable("p.plan")
NEEDED_PROGRAMS = text(f"""
WITH run AS (
  SELECT DISTINCT split_part(h.key, ' ', 1) AS digest
    FROM jobs j JOIN jobs p ON p.id IN (j.id, j.derived_from), json_each({_PLAN} -> 'prompt_hashes') h
   WHERE j.project_id = :project_id AND j.status NOT IN ('succeeded', 'failed', 'cancelled'))
SELECT digest FROM run
UNION
SELECT other.digest FROM run
  JOIN programs own ON own.project_id = :project_id AND own.digest = run.digest
  JOIN programs other ON other.project_id = own.project_id
   AND (other.identity = own.identity OR (own.identity IS NULL OR other.identity IS NULL)
        AND coalesce(own.base_digest, own.digest) IN (other.base_digest, other.digest))""")  # noqa: S608 - no value is put in
"""Digests of the programs that open jobs run, and of those of the same code: such a job may take any stored trace of these."""
_MAY_GO = """project_id = :project_id AND id < :before_id AND created_at < :before
   AND program_digest <> ALL (CAST(:programs AS text[]))
   AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = t.job_id AND j.status NOT IN ('succeeded', 'failed', 'cancelled'))"""
OLD_TRACES = text(f"SELECT id, digest FROM traces t WHERE {_MAY_GO} AND id > :after ORDER BY id LIMIT :many")  # noqa: S608 - no value is put in
STILL_OLD = text(f"SELECT digest FROM traces t WHERE {_MAY_GO} AND digest = ANY (:digests)")  # noqa: S608

JOBS_WITH_EVENTS = text("""
SELECT id FROM jobs WHERE project_id = :project_id AND finished_at < :before AND erased_at IS NULL AND events_removed_at IS NULL
 ORDER BY finished_at LIMIT :many""")
SOME_EVENTS = text("""
DELETE FROM job_events WHERE job_id = :job_id
   AND seq IN (SELECT seq FROM job_events WHERE job_id = :job_id AND type <> 'done' ORDER BY seq LIMIT :many)""")
"""The event of a job's end stays: a stream of events ends with it."""
WITHOUT_EVENTS = text("UPDATE jobs SET events_removed_at = clock_timestamp() WHERE id = :job_id")
JOBS_WITH_DETAILS = text("""
SELECT id FROM jobs WHERE project_id = :project_id AND finished_at < :before AND erased_at IS NULL ORDER BY finished_at LIMIT :many""")

OLD_ARTIFACTS = text("""
SELECT id FROM artifacts a WHERE project_id = :project_id AND id > :after AND created_at < :before AND deleted_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM aliases WHERE artifact_id = a.id)
 ORDER BY id LIMIT :many""")

SOME_AUDIT_ENTRIES = text("""
DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE project_id = :project_id AND id < :before_id
                                   AND created_at < :before ORDER BY id LIMIT :many)""")
