"""What Prometheus costs the server: one scrape of `/metrics`, with few and with very many jobs."""

from __future__ import annotations

import time

import httpx
import psycopg

from bench.api import callers, database_address, job_body, noop_stack
from bench.areas.jobs import wait_for_job
from bench.figures import percentile
from bench.noop_names import PREFIX
from bench.report import Figure, figure, measured
from bench.session import Session
from stack.supervisor import Stack

AREA = "scrape"
OPEN_SHARE = 20
"""One job in so many is open, each with a work item that is due."""
_TABLES = {"jobs": ("id",), "job_steps": (), "work_items": ("id",)}


def measure(session: Session) -> list[Figure]:
    scrapes, rounds = session.size(3, 20), session.size(1, 3)
    depths = session.size((50, 200), (1000, 100_000))
    session.expect(1 + len(depths) * (1 + rounds))
    session.tick("starting the stack")
    with noop_stack(session) as stack:
        finished, waiting = _two_jobs(stack)
        figures, made = list[Figure](), 0
        for depth in depths:
            session.tick(f"making {depth:,} jobs")
            _copy(stack, finished, made - made // OPEN_SHARE, depth - depth // OPEN_SHARE)
            _copy(stack, waiting, made // OPEN_SHARE, depth // OPEN_SHARE)
            made = depth
            figures.append(_at_depth(session, stack, depth, rounds, scrapes))
        return figures


def _two_jobs(stack: Stack) -> tuple[str, str]:
    """One that is over, and one whose work item nobody claims."""
    with callers(stack, 1) as (caller,):
        body = job_body(caller)
        over = caller.call("POST", "/v1/compile_jobs", body)["id"]
        wait_for_job(caller, over, lambda job: job["status"] == "succeeded")
        waiting = caller.call("POST", "/v1/compile_jobs", {**body, "name": f"{PREFIX}1"})["id"]
        wait_for_job(caller, waiting, lambda job: job["step"] == "bootstrap")
    return over, waiting


def _copy(stack: Stack, job_id: str, made: int, number: int) -> None:
    """Copies of a job with its steps and work items, until there are `number`."""
    with psycopg.connect(database_address(stack), autocommit=True) as connection:
        for table, own in _TABLES.items():
            key = "id" if table == "jobs" else "job_id"
            query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
            columns = [name for (name,) in connection.execute(query, [table]) if name not in (*own, key)]
            names = ", ".join(columns)
            copied = f"""
                INSERT INTO {table} ({key}, {names}) SELECT {key} || '-' || number, {names}
                  FROM {table}, generate_series({made + 1}, {number}) AS number WHERE {key} = %s
            """
            rows = connection.execute(copied.encode(), [job_id]).rowcount
            if table == "jobs" and rows != number - made:
                raise RuntimeError(f"{rows} jobs were made, not {number - made}")
            connection.execute(f"ANALYZE {table}".encode())


def _at_depth(session: Session, stack: Stack, depth: int, rounds: int, scrapes: int) -> Figure:
    found = []
    with httpx.Client(base_url=stack.base_url, headers={"authorization": f"Bearer {stack.api_key}"}, timeout=60) as client:
        _scrape(client)  # connections and plans, and the sum over blobs, which is kept for five minutes
        for _ in range(rounds):
            session.tick(f"{depth:,} jobs")
            found.append([_scrape(client) for _ in range(scrapes)])
    wall = measured("ms", "lower", [percentile(part, 0.95) for part in found])
    details = {"p50_ms": percentile([each for part in found for each in part], 0.5), "open_jobs": depth // OPEN_SHARE}
    return figure(AREA, f"GET /metrics, {depth:,} jobs, p95", wall, n=scrapes, details=details)


def _scrape(client: httpx.Client) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    client.get("/metrics").raise_for_status()
    return 1000 * (time.perf_counter() - began)
