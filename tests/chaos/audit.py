"""What the database itself saw: triggers of the tests' own write down every change of a status, in the transaction that makes it.

The code under test does not know of them. `app` is the process that made the change, `by_holder` whether that is the process which held
the lease, `told` the fence that its publisher believed to hold (set by `tests.chaos.worker`), `xid` the transaction.
"""

from __future__ import annotations

DDL = """
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE IF NOT EXISTS chaos.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  xid text NOT NULL DEFAULT pg_current_xact_id()::text, app text NOT NULL DEFAULT current_setting('application_name'),
  told text DEFAULT NULLIF(current_setting('chaos.told', true), ''),
  kind text NOT NULL, job_id text NOT NULL, item_id bigint, step text, was text, became text, fence_was bigint, fence bigint,
  owner text, by_holder boolean, expires_at timestamptz, attempts int, losses int, max_attempts int
);
CREATE INDEX IF NOT EXISTS audit_item ON chaos.audit (item_id);

CREATE OR REPLACE FUNCTION chaos.of_item() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  holder text := COALESCE(OLD.lease_owner, NEW.lease_owner);
  own boolean := substring(current_setting('application_name') from '[0-9]+$') = (regexp_match(holder, '-([0-9]+)-[a-z0-9]+$'))[1];
BEGIN
  INSERT INTO chaos.audit (kind, job_id, item_id, step, was, became, fence_was, fence, owner, by_holder, expires_at, attempts, losses,
                           max_attempts)
  VALUES ('item', NEW.job_id, NEW.id, NEW.step, OLD.status, NEW.status, OLD.fence, NEW.fence, holder, own,
          COALESCE(OLD.lease_expires_at, NEW.lease_expires_at), NEW.attempts, NEW.losses, NEW.max_attempts);
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION chaos.of_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO chaos.audit (kind, job_id, was, became) VALUES ('job', NEW.id, OLD.status, NEW.status);
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION chaos.of_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO chaos.audit (kind, job_id, became) VALUES (TG_TABLE_NAME, NEW.job_id, NEW.id);
  RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER chaos_item AFTER UPDATE ON public.work_items FOR EACH ROW
  WHEN (OLD.status <> NEW.status OR OLD.fence <> NEW.fence) EXECUTE FUNCTION chaos.of_item();
CREATE OR REPLACE TRIGGER chaos_job AFTER UPDATE ON public.jobs FOR EACH ROW
  WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION chaos.of_job();
CREATE OR REPLACE TRIGGER chaos_artifact AFTER INSERT ON public.artifacts FOR EACH ROW EXECUTE FUNCTION chaos.of_product();
CREATE OR REPLACE TRIGGER chaos_model AFTER INSERT ON public.models FOR EACH ROW EXECUTE FUNCTION chaos.of_product();
"""
