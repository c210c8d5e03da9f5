"""Which edges rows have taken, as PostgreSQL saw it: a trigger writes down every change of a status, whoever made it."""

from typing import Any

from sqlalchemy import text

from distill.db import unit_of_work
from distill.jobs.status import FINE_TUNE_EDGES, ITEM_EDGES, JOB_EDGES
from tests.integration.core.world import execute

Edges = set[tuple[str | None, str]]
TABLES: dict[str, dict[str, Any]] = {"jobs": JOB_EDGES, "work_items": ITEM_EDGES, "fine_tune_jobs": FINE_TUNE_EDGES}
_WATCH = """
CREATE OR REPLACE FUNCTION note_edge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN INSERT INTO edges_seen VALUES (TG_TABLE_NAME, NULL, NEW.status);
  ELSIF NEW.status <> OLD.status THEN INSERT INTO edges_seen VALUES (TG_TABLE_NAME, OLD.status, NEW.status);
  END IF;
  RETURN NULL;
END $$
"""


def watch() -> None:
    """Write down every edge from now on."""
    execute("CREATE TABLE IF NOT EXISTS edges_seen (relation text, source text, target text)")
    execute(_WATCH)
    for table in TABLES:
        execute(f"CREATE OR REPLACE TRIGGER note_edge AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note_edge()")


def seen() -> dict[str, Edges]:
    found: dict[str, Edges] = {table: set() for table in TABLES}
    with unit_of_work() as s:
        for relation, source, target in s.execute(text("SELECT DISTINCT relation, source, target FROM edges_seen")):
            found[relation].add((source, target))
    return found


def drawn() -> dict[str, Edges]:
    """Those that the code's tables have, and the charts of docs/lifecycle.md with them."""
    return {name: {(s, str(target)) for sources, target in edges.values() for s in sources} for name, edges in TABLES.items()}
