"""The statements of claims.py. Each guards what it changes by status and fence, so two of them never both succeed."""

from __future__ import annotations

from sqlalchemy import text

# Projects in their order, their jobs in theirs, and the first item that can be locked: nodes pull row by row, so the walk ends there.
# A subquery with ORDER BY is not merged into the one around it, and its limit, of which the planner does not know that it is beyond all
# numbers, makes it walk along the index instead of sorting all jobs first.
_CLAIM = """
WITH leased AS MATERIALIZED (
  SELECT w.job_id, j.project_id, count(*) AS items, sum(w.width) AS width
    FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.status = 'leased' GROUP BY w.job_id, j.project_id
), line AS MATERIALIZED (
  SELECT p.id, p.max_threads IS NOT NULL AS capped, COALESCE(r.items, 0) / p.share AS load,
         p.share * extract(epoch FROM clock_timestamp() - p.served_at) AS waited,
         COALESCE(LEAST(p.max_threads - COALESCE(r.width, 0),
                        CAST(:max_threads AS bigint) - (SELECT COALESCE(sum(width), 0) FROM leased)), 1000000) AS room
    FROM projects p
    LEFT JOIN (SELECT project_id, sum(items) AS items, sum(width) AS width FROM leased GROUP BY project_id) r ON r.project_id = p.id
   WHERE NOT EXISTS (SELECT FROM server_meta WHERE key = 'drain') {of_project}
), due AS MATERIALIZED (
  SELECT id FROM connections WHERE limited_since IS NOT NULL AND limited_until <= clock_timestamp() AND waiting_since IS NULL
), try AS (
  SELECT w.id, LEAST(p.room, j.num_threads - COALESCE((SELECT width FROM leased l WHERE l.job_id = j.id), 0)) AS room, p.capped
    FROM work_items w JOIN jobs j ON j.id = w.job_id JOIN line p ON p.id = j.project_id
   WHERE EXISTS (SELECT FROM due) AND w.connections && ARRAY(SELECT id FROM due)
     AND w.queue = :queue AND w.status = 'queued' AND NOT w.held AND w.run_after <= clock_timestamp()
     AND w.needs <@ CAST(:capabilities AS text[])
     AND NOT w.connections && ARRAY(SELECT id FROM connections WHERE waiting_since IS NOT NULL OR limited_until > clock_timestamp())
     AND j.status IN ('queued', 'running') AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
     AND (j.deadline IS NULL OR j.deadline > clock_timestamp()) {of_job}
     AND p.room > 0 AND j.num_threads > COALESCE((SELECT width FROM leased l WHERE l.job_id = j.id), 0)
   ORDER BY w.started_at NULLS FIRST, w.created_at, w.id
   LIMIT 1 FOR UPDATE OF w SKIP LOCKED
), turn AS (
  SELECT w.id, LEAST(p.room, j.room) AS room, p.capped
    FROM (SELECT * FROM line WHERE room > 0 AND NOT EXISTS (SELECT FROM try) ORDER BY load, waited DESC NULLS FIRST, id) p
   CROSS JOIN LATERAL (
     SELECT id, num_threads - COALESCE((SELECT width FROM leased l WHERE l.job_id = jobs.id), 0) AS room
       FROM jobs
      WHERE project_id = p.id AND status IN ('queued', 'running') AND cancel_requested_at IS NULL AND pause_requested_at IS NULL
        AND (deadline IS NULL OR deadline > clock_timestamp()) {of_id}
      ORDER BY priority DESC, created_at, id LIMIT (SELECT 1000000000)
   ) j
   CROSS JOIN LATERAL (
     SELECT id FROM work_items
      WHERE j.room > 0 AND job_id = j.id AND queue = :queue AND status = 'queued' AND NOT held AND run_after <= clock_timestamp()
        AND needs <@ CAST(:capabilities AS text[])
        AND NOT connections && ARRAY(SELECT id FROM connections WHERE waiting_since IS NOT NULL OR limited_since IS NOT NULL)
      ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
   ) w
   LIMIT 1
), pick AS (
  SELECT * FROM try UNION ALL SELECT * FROM turn
)
UPDATE work_items w
   SET status = 'leased', fence = w.fence + 1, attempts = w.attempts + 1, lease_owner = :owner,
       lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds),
       started_at = clock_timestamp(), finished_at = NULL, progress = NULL,
       width = CASE WHEN w.step IN ('bootstrap', 'evaluate') THEN LEAST(:max_width, pick.room, GREATEST(w.units, 1)) ELSE 1 END
  FROM pick WHERE w.id = pick.id
RETURNING w.id, w.job_id, w.step, w.kind, w.ordinal, w.payload, w.units, w.queue, w.fence, w.attempts, w.width, w.fine_tune_job_id,
          pick.capped, ARRAY(SELECT id FROM connections WHERE id = ANY (w.connections) AND limited_since IS NOT NULL) AS tries
"""
CLAIM = text(_CLAIM.format(of_project="", of_job="", of_id=""))
_THE_JOB = "AND {id} = COALESCE(CAST(:job_id AS text), {id})"
CLAIM_OF_PROJECT = text(
    _CLAIM.format(of_project="AND p.id = :project_id", of_job=_THE_JOB.format(id="j.id"), of_id=_THE_JOB.format(id="jobs.id"))
)

START_STEP = text("""
UPDATE job_steps SET status = 'running', started_at = clock_timestamp() WHERE job_id = :job_id AND name = :step AND status = 'queued'
""")

OTHER_WIDTHS = text("SELECT COALESCE(sum(width), 0) FROM work_items WHERE job_id = :job_id AND status = 'leased' AND id <> :id")

SET_WIDTH = text("UPDATE work_items SET width = :width WHERE id = :id AND width <> :width")

CUT_ITEM = text("UPDATE work_items SET payload = CAST(:payload AS json), units = :units WHERE id = :id")

ADD_REST = text("""
INSERT INTO work_items (job_id, step, kind, ordinal, payload, units, queue, needs, connections, priority, max_attempts, fine_tune_job_id,
                        created_at, started_at)
SELECT job_id, step, kind, ordinal, CAST(:payload AS json), :units, queue, needs, connections, priority, max_attempts, fine_tune_job_id,
       created_at, started_at
  FROM work_items WHERE id = :id
""")

PUT_OFF = text(
    """
INSERT INTO work_items (job_id, step, kind, ordinal, payload, units, queue, needs, connections, priority, max_attempts, run_after)
SELECT job_id, step, kind, ordinal, CAST(:payload AS json), 1, queue, needs, connections, priority, max_attempts,
       clock_timestamp() + make_interval(secs => :seconds)
  FROM work_items WHERE id = :id
"""  # the rest of its units stays with the item that they are taken from
)

RATE = text("""
SELECT sum(units) / NULLIF(sum(extract(epoch FROM finished_at - started_at)), 0)
  FROM work_items WHERE job_id = :job_id AND step = :step AND kind = :kind AND status = 'succeeded'
""")

BEAT = text("""
UPDATE work_items w
   SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds),
       losses = CASE WHEN COALESCE(f.checkpoint_step, CAST(:done AS bigint)) > w.furthest THEN 0 ELSE w.losses END,
       furthest = GREATEST(w.furthest, COALESCE(f.checkpoint_step, CAST(:done AS bigint))),
       progress = COALESCE(CAST(:progress AS json), w.progress)
  FROM jobs j LEFT JOIN fine_tune_jobs f ON f.id = :fine_tune_job_id
 WHERE w.id = :id AND w.fence = :fence AND w.status = 'leased' AND w.lease_expires_at > clock_timestamp() AND j.id = w.job_id
RETURNING j.cancel_requested_at IS NOT NULL OR j.status IN ('succeeded', 'failed', 'cancelled') AS cancel,
          j.pause_requested_at IS NOT NULL OR COALESCE(j.deadline <= clock_timestamp(), false)
            OR EXISTS (SELECT FROM server_meta WHERE key = 'drain') AS pause
""")

HOLD = text("SELECT 1 FROM work_items WHERE id = :id AND fence = :fence AND status = 'leased' FOR SHARE")

END = text("""
UPDATE work_items
   SET status = :status, width = 0, lease_owner = NULL, lease_expires_at = NULL, finished_at = clock_timestamp(), losses = 0,
       result = CAST(:result AS json), error = CAST(:error AS json)
 WHERE id = :id AND fence = :fence AND status = 'leased' RETURNING id
""")

COUNT_UNITS = text("""
UPDATE job_steps
   SET done = done + :units,
       counts = (SELECT COALESCE(json_object_agg(key, total ORDER BY key), '{}')
                   FROM (SELECT key, sum(value::numeric) AS total
                           FROM (SELECT * FROM json_each_text(counts)
                                 UNION ALL SELECT * FROM json_each_text(CAST(:counts AS json))) AS parts
                          GROUP BY key) AS sums),
       status = CASE WHEN done + :units = total THEN 'succeeded' ELSE status END,
       finished_at = CASE WHEN done + :units = total THEN clock_timestamp() END
 WHERE job_id = :job_id AND name = :step
RETURNING done = total AS closed, total, counts, EXTRACT(epoch FROM finished_at - COALESCE(started_at, opened_at)) AS seconds
""")

OTHER_QUEUES = text("""
SELECT queue FROM unnest(CAST(:queues AS text[])) AS queue
 WHERE queue <> :queue
   AND EXISTS (SELECT FROM work_items w WHERE w.job_id = :job_id AND w.queue = queue.queue AND w.status = 'queued' AND NOT w.held)
""")

RETRY_LATER = text("""
UPDATE work_items
   SET status = 'queued', width = 0, lease_owner = NULL, lease_expires_at = NULL, error = CAST(:error AS json),
       run_after = clock_timestamp() + make_interval(secs => LEAST(:cap, :base * 2 ^ (attempts - 1)) * (0.5 + random() / 2))
 WHERE id = :id AND fence = :fence AND status = 'leased' AND attempts < max_attempts RETURNING id
""")

RELEASE = text("""
UPDATE work_items w
   SET status = 'queued', attempts = GREATEST(attempts - 1, 0), width = 0, lease_owner = NULL, lease_expires_at = NULL,
       run_after = GREATEST(clock_timestamp(), c.until), hinted_at = clock_timestamp(),
       progress = COALESCE(CAST(:progress AS json), w.progress),
       waits_since = CASE WHEN c.until IS NOT NULL THEN COALESCE(w.waits_since, clock_timestamp()) END
  FROM (SELECT max(limited_until) AS until FROM connections WHERE id = ANY (SELECT unnest(connections) FROM work_items WHERE id = :id)) c
 WHERE w.id = :id AND w.fence = :fence AND w.status = 'leased' RETURNING w.queue, w.run_after <= clock_timestamp() AS due
""")

# A client that goes away is no sign that the work kills whoever does it.
REAP = text("""
UPDATE work_items w
   SET status = CASE WHEN w.losses + 1 >= :poison AND w.queue <> 'client' THEN 'failed' ELSE 'queued' END, losses = w.losses + 1,
       attempts = GREATEST(w.attempts - 1, 0), width = 0, lease_owner = NULL, lease_expires_at = NULL,
       run_after = clock_timestamp(), hinted_at = clock_timestamp(),
       waits_since = CASE WHEN w.queue <> 'client' THEN w.waits_since END, -- a client that is gone is no connection that is away
       finished_at = CASE WHEN w.losses + 1 >= :poison AND w.queue <> 'client' THEN clock_timestamp() END
 WHERE w.id = (
   SELECT id FROM work_items
    WHERE status = 'leased' AND lease_expires_at < clock_timestamp() - make_interval(secs => :grace)
      AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => :lease_seconds)
    ORDER BY lease_expires_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING w.id, w.job_id, w.step, w.status, w.queue, w.fine_tune_job_id
""")

START_FINE_TUNE = text("""
UPDATE fine_tune_jobs SET status = 'running', started_at = COALESCE(started_at, clock_timestamp()) WHERE id = :id AND status = 'queued'
""")

FINISH_FINE_TUNE = text("""
UPDATE fine_tune_jobs SET status = :status, error = CAST(:error AS json), finished_at = clock_timestamp()
 WHERE id = :id AND status = 'running'
""")

SWEEP = text("""
UPDATE work_items w SET status = 'cancelled', held = false, finished_at = clock_timestamp()
 WHERE w.id IN (SELECT i.id FROM work_items i JOIN jobs j ON j.id = i.job_id
                 WHERE i.status = 'queued' AND j.status IN ('failed', 'cancelled') LIMIT 500
                   FOR UPDATE OF i SKIP LOCKED FOR SHARE OF j SKIP LOCKED)
""")
