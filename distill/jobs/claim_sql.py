"""The statements of claims.py. Each guards what it changes by status and fence, so two of them never both succeed."""

from __future__ import annotations

from sqlalchemy import text

CLAIM = text("""
WITH leased AS (
  SELECT w.job_id, j.project_id, count(*) AS items, sum(w.width) AS width
    FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.status = 'leased' GROUP BY w.job_id, j.project_id
), running AS (
  SELECT project_id, sum(items) AS items FROM leased GROUP BY project_id
), pick AS (
  SELECT w.id, j.num_threads - COALESCE(l.width, 0) AS room
    FROM work_items w
    JOIN jobs j ON j.id = w.job_id
    JOIN projects p ON p.id = j.project_id
    LEFT JOIN leased l ON l.job_id = w.job_id
    LEFT JOIN running r ON r.project_id = j.project_id
   WHERE w.queue = :queue AND w.status = 'queued' AND NOT w.held AND w.run_after <= clock_timestamp()
     AND w.needs <@ CAST(:capabilities AS text[])
     AND j.status IN ('queued', 'running') AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
     AND j.num_threads > COALESCE(l.width, 0)
     AND NOT w.connections && ARRAY(SELECT id FROM connections WHERE waiting_since IS NOT NULL OR limited_until > clock_timestamp())
   ORDER BY COALESCE(r.items, 0) / p.share, w.priority DESC,
            CASE WHEN w.connections && ARRAY(SELECT id FROM connections WHERE limited_since IS NOT NULL) THEN w.started_at END NULLS FIRST,
            w.created_at, w.id
   LIMIT 1 FOR UPDATE OF w SKIP LOCKED
)
UPDATE work_items w
   SET status = 'leased', fence = w.fence + 1, attempts = w.attempts + 1, lease_owner = :owner,
       lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds),
       started_at = clock_timestamp(), finished_at = NULL, progress = NULL,
       width = CASE WHEN w.step IN ('bootstrap', 'evaluate') THEN LEAST(:max_width, pick.room, GREATEST(w.units, 1)) ELSE 1 END
  FROM pick WHERE w.id = pick.id
RETURNING w.id, w.job_id, w.step, w.kind, w.ordinal, w.payload, w.units, w.queue, w.fence, w.attempts, w.width, w.fine_tune_job_id,
          ARRAY(SELECT id FROM connections WHERE id = ANY (w.connections) AND limited_since IS NOT NULL) AS tries
""")

START_STEP = text("""
UPDATE job_steps SET status = 'running', started_at = clock_timestamp() WHERE job_id = :job_id AND name = :step AND status = 'queued'
""")

OTHER_WIDTHS = text("SELECT COALESCE(sum(width), 0) FROM work_items WHERE job_id = :job_id AND status = 'leased' AND id <> :id")

SET_WIDTH = text("UPDATE work_items SET width = :width WHERE id = :id AND width <> :width")

UNCLAIM = text("""
UPDATE work_items SET status = 'queued', attempts = attempts - 1, width = 0, lease_owner = NULL, lease_expires_at = NULL, started_at = NULL
 WHERE id = :id
""")

CUT_ITEM = text("UPDATE work_items SET payload = CAST(:payload AS json), units = :units WHERE id = :id")

ADD_REST = text("""
INSERT INTO work_items (job_id, step, kind, ordinal, payload, units, queue, needs, connections, priority, max_attempts, fine_tune_job_id,
                        created_at, started_at)
SELECT job_id, step, kind, ordinal, CAST(:payload AS json), :units, queue, needs, connections, priority, max_attempts, fine_tune_job_id,
       created_at, started_at
  FROM work_items WHERE id = :id
""")

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
          j.pause_requested_at IS NOT NULL AS pause
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
RETURNING done = total AS closed, total, counts
""")

OTHER_QUEUES = text("""
SELECT DISTINCT queue FROM work_items WHERE job_id = :job_id AND status = 'queued' AND NOT held AND queue <> :queue
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
       waits_since = CASE WHEN c.until IS NOT NULL THEN COALESCE(w.waits_since, clock_timestamp()) END
  FROM (SELECT max(limited_until) AS until FROM connections WHERE id = ANY (SELECT unnest(connections) FROM work_items WHERE id = :id)) c
 WHERE w.id = :id AND w.fence = :fence AND w.status = 'leased' RETURNING w.queue, w.run_after <= clock_timestamp() AS due
""")

REAP = text("""
UPDATE work_items w
   SET status = CASE WHEN w.losses + 1 >= :poison THEN 'failed' ELSE 'queued' END, losses = w.losses + 1,
       attempts = GREATEST(w.attempts - 1, 0), width = 0, lease_owner = NULL, lease_expires_at = NULL,
       run_after = clock_timestamp(), hinted_at = clock_timestamp(),
       finished_at = CASE WHEN w.losses + 1 >= :poison THEN clock_timestamp() END
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
