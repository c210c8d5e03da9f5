"""Who used what: a project's jobs, LM calls, teacher money and compute-seconds by the API key that made the job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from distill.db import Session, now
from distill.ids import first_id

_BY_KEY = text("""
WITH made AS (
  SELECT j.created_by AS key_id, count(*) AS jobs FROM jobs j
   WHERE (CAST(:project_id AS text) IS NULL OR j.project_id = :project_id)
     AND j.kind = 'compile' AND j.id >= :first_job GROUP BY 1
), asked AS (
  SELECT j.created_by AS key_id, sum(u.calls) AS calls, sum(u.prompt_tokens + u.completion_tokens) AS tokens,
         sum(u.usd) FILTER (WHERE u.role LIKE 'teacher%') AS usd
    FROM lm_usage u JOIN jobs j ON j.id = u.job_id
   WHERE (CAST(:project_id AS text) IS NULL OR u.project_id = :project_id)
     AND u.kind = 'paid' AND u.created_at >= :since GROUP BY 1
), trained AS (
  SELECT j.created_by AS key_id,
         sum(f.earlier_seconds + CASE WHEN f.reused_from IS NULL
               THEN GREATEST(f.trained_seconds, COALESCE(CAST(f.result ->> 'seconds' AS float), 0)) ELSE 0 END) AS seconds
    FROM fine_tune_jobs f JOIN jobs j ON j.id = f.job_id
   WHERE (CAST(:project_id AS text) IS NULL OR f.project_id = :project_id)
     AND f.started_at IS NOT NULL AND COALESCE(f.finished_at, :at) >= :since GROUP BY 1
), who AS (SELECT key_id FROM made UNION SELECT key_id FROM asked UNION SELECT key_id FROM trained)
SELECT who.key_id, api_keys.label, COALESCE(jobs, 0) AS jobs, COALESCE(calls, 0) AS calls, COALESCE(tokens, 0) AS tokens,
       COALESCE(usd, 0) AS usd, COALESCE(seconds, 0) AS seconds
  FROM who LEFT JOIN api_keys ON api_keys.id = who.key_id
           LEFT JOIN made ON made.key_id IS NOT DISTINCT FROM who.key_id
           LEFT JOIN asked ON asked.key_id IS NOT DISTINCT FROM who.key_id
           LEFT JOIN trained ON trained.key_id IS NOT DISTINCT FROM who.key_id
 ORDER BY seconds DESC, usd DESC, calls DESC, who.key_id
""")


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What the jobs of one key have used; `key_id` is None for jobs that no key made. Unpriced teachers are not in the money."""

    key_id: str | None
    label: str | None
    jobs: int
    calls: int
    tokens: int
    teacher_usd: float
    compute_seconds: float


def usage_by_key(s: Session, project_id: str | None, days: int) -> tuple[datetime, list[KeyUsage]]:
    """Since when, and who: who trained most comes first. What is counted is what the project's months count;
    of all projects where `project_id` is None."""
    at = now(s)
    since = at - timedelta(days=days)
    values = {"project_id": project_id, "since": since, "at": at, "first_job": first_id("cjob", since)}
    return since, [
        KeyUsage(row.key_id, row.label, row.jobs, int(row.calls), int(row.tokens), round(float(row.usd), 6), round(float(row.seconds), 1))
        for row in s.execute(_BY_KEY, values)
    ]
