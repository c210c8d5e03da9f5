"""What /metrics tells of the whole server: each number after the event that it counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select, text
from starlette.testclient import TestClient

from app.main import create_app
from distill.catalog import counters, devices, keys, projects, waits, webhooks
from distill.catalog.counters import CounterRow, Increment
from distill.catalog.webhooks import Parcel
from distill.db import unit_of_work
from distill.errors import JobFault
from distill.jobs import claims, service, workers
from distill.jobs.call_counters import CallCounters
from distill.relay.calls import CallLog
from distill.settings import get_settings
from tests.integration.core.world import World, claim, connection, execute, publish, taken
from tests.support.statements import counted

OPS = Path(__file__).parents[3] / "ops"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraper:
    def __init__(self, client: TestClient) -> None:
        self._client = client

    def series(self) -> Series:
        found: Series = {}
        for family in text_string_to_metric_families(self._text()):
            for sample in family.samples:
                key = (sample.name.removeprefix("stillhouse_"), frozenset(sample.labels.items()))
                assert key not in found, key
                found[key] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.series().get((name, frozenset(labels.items())))

    def labels(self) -> dict[str, set[str]]:
        """Names of the labels of each metric that has a sample."""
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(self._text()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found

    def _text(self) -> str:
        reply = self._client.get("/metrics")
        assert reply.status_code == 200, reply.text
        return reply.text


@pytest.fixture
def metrics(world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Scraper:
    monkeypatch.setattr("app.metrics.STATE_SECONDS", 0.0)  # each test looks right after what it has done
    return scraper()


def scraper() -> Scraper:
    with unit_of_work() as s:
        token = keys.create(s, projects.ensure(s, projects.OPERATORS).id, "prometheus", ["metrics:read"])[1]
    return Scraper(TestClient(create_app(), headers={"Authorization": f"Bearer {token}"}))


def values(metrics: Scraper, name: str, label: str) -> Mapping[str, float]:
    return {dict(labels)[label]: value for (each, labels), value in metrics.series().items() if each == name}


def test_alerts_and_dashboard_name_metrics_and_labels_that_there_are(world: World, metrics: Scraper) -> None:
    one_of_each(world)
    metrics.labels()  # the first request that is counted
    labels = metrics.labels()
    asked = [*alert_expressions(), *dashboard_expressions()]
    assert len(asked) > 40
    for expression, shown in asked:
        named = re.findall(r"((?:stillhouse|process)_\w+)(?:\{([^}]*)\})?", expression)
        assert [name for name, _ in named if name not in labels] == [], expression
        for name, selectors in named:
            assert set(re.findall(r"(\w+)\s*(?:=|!)", selectors)) <= labels[name] | {"job"}, expression
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        assert grouped | shown <= {"instance", *(label for name, _ in named for label in labels[name])}, expression


def one_of_each(world: World) -> None:
    """Give every metric of the whole server a sample."""
    teacher, calls = connection("teachers").id, CallLog()
    calls.attempted(teacher, "ok", 0.3)
    calls.answered(teacher, {"prompt_tokens": 100, "completion_tokens": 20}, 0.25)
    CallCounters(calls, "worker").write()
    world.submit()
    with unit_of_work() as s:
        devices.ensure(s, "gpu-0")
        counted = {"jobs_finished": (world.project_id, "succeeded"), "jobs_failed": ("internal",), "leases_lost": ("train", "train")}
        counters.add(s, [Increment(name, values) for name, values in {**counted, "webhook_attempts": ("failed",)}.items()])
        counters.add(s, [*counters.JOB_SECONDS.observe(("compile", "failed"), 1), *counters.STEP_SECONDS.observe(("train",), 1)])


def alert_expressions() -> Iterator[tuple[str, set[str]]]:
    """Each with the labels that its texts show."""
    for group in yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"], set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))


def dashboard_expressions() -> Iterator[tuple[str, set[str]]]:
    """Those of panels, each with the labels that its legend shows, and those of variables."""
    dashboard = json.loads((OPS / "grafana" / "stillhouse.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            yield metric, {label}


def test_jobs_steps_and_queues(world: World, metrics: Scraper) -> None:
    done, failing = world.submit(), world.submit()
    execute("UPDATE work_items SET created_at = run_after - interval '10 minutes', run_after = run_after - interval '10 minutes'")
    assert metrics.value("jobs", project="support", status="queued") == 2
    assert metrics.value("queue_items", queue="rollouts") == 2
    assert 600 <= (metrics.value("queue_oldest_seconds", queue="rollouts") or 0) < 700
    assert metrics.value("queue_items", queue="train") == 0
    assert metrics.value("outbox_hints") == 2
    first = taken()
    assert first.job_id == done
    assert metrics.value("queue_leased_items", queue="rollouts") == 1
    publish(first, on_closed=lambda s, job, _: service.succeed(s, job))
    with unit_of_work() as s:
        claims.fail(s, taken(), JobFault("no_rows_kept", "no row is", "user"))
    assert metrics.value("jobs_finished_total", project="support", status="succeeded") == 1
    assert metrics.value("jobs_finished_total", project="support", status="failed") == 1
    assert metrics.value("jobs_failed_total", code="no_rows_kept") == 1
    assert metrics.value("step_seconds_count", step="validate") == 1
    assert metrics.value("job_seconds_count", kind="compile", status="failed") == 1
    assert metrics.value("jobs", project="support", status="queued") is None
    assert failing != done


def test_a_code_that_a_client_made_up_is_counted_as_other(world: World, metrics: Scraper) -> None:
    world.submit()
    with unit_of_work() as s:
        claims.fail(s, taken(), JobFault("made_up_1", "no"))
    assert metrics.value("jobs_failed_total", code="other") == 1
    assert metrics.value("jobs_failed_total", code="made_up_1") is None


def test_workers_and_lost_leases(world: World, metrics: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    with unit_of_work() as s:
        workers.seen(s, "tester", ["light", "rollouts"], [], 4)
        workers.seen(s, "silent", ["train"], [], 1)
    execute("UPDATE workers SET seen_at = clock_timestamp() - interval '5 minutes' WHERE name = 'silent'")
    world.submit()
    taken()
    assert values(metrics, "workers", "queue") == {"light": 1, "rollouts": 1, "train": 0}
    assert values(metrics, "worker_threads", "queue") == {"light": 4, "rollouts": 4, "train": 0}
    assert values(metrics, "worker_threads_busy", "queue") == {"light": 1, "rollouts": 1, "train": 0}
    assert metrics.value("workers_gone") == 1
    execute("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 day' WHERE status = 'leased'")
    monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.001")  # the server has been up for longer
    get_settings.cache_clear()
    with unit_of_work() as s:
        assert claims.reap(s) is not None
        s.rollback()
    assert metrics.value("leases_lost_total", queue="rollouts", step="validate") is None
    with unit_of_work() as s:
        claims.reap(s)
    assert metrics.value("leases_lost_total", queue="rollouts", step="validate") == 1


def test_connections_devices_and_webhooks(world: World, metrics: Scraper) -> None:
    teacher, calls = connection("teachers").id, CallLog()
    calls.attempted(teacher, "ok", 0.3)
    calls.attempted(teacher, "rate_limited", 0.1)
    calls.answered(teacher, {"prompt_tokens": 100, "completion_tokens": 20}, 0.25)
    CallCounters(calls, "worker").write()
    with unit_of_work() as s:
        waits.limit(s, teacher, "rate_limited", None)
        devices.ensure(s, "gpu-0")
        webhooks.record(s, Parcel("evt-none", "whk-none", "", "", b"", 1), 500, "it answered 500")
    which = {"connection": "teachers", "project": ""}
    assert metrics.value("lm_requests_total", **which, outcome="rate_limited") == 1
    assert metrics.value("lm_requests_total", **which, outcome="ok") == 1
    assert metrics.value("lm_request_seconds_bucket", **which, le="0.25") == 1
    assert metrics.value("lm_request_seconds_bucket", **which, le="0.5") == 2
    assert metrics.value("lm_request_seconds_sum", **which) == pytest.approx(0.4)
    assert metrics.value("lm_tokens_total", **which, kind="prompt") == 100
    assert metrics.value("lm_cost_usd_total", **which) == 0.25
    assert metrics.value("connection_waiting", **which) == 1
    assert metrics.value("device_held", device="gpu-0", holder="lm_host") == 1
    assert metrics.value("device_held", device="gpu-0", holder="trainer") == 0
    assert metrics.value("webhook_attempts_total", outcome="failed") == 1
    assert (metrics.value("blob_bytes") or 0) > 0
    assert (metrics.value("disk_free_bytes", folder="blobs") or 0) > 0
    assert (metrics.value("database_connections", state="used") or 0) >= 1
    assert metrics.value("build_info", version="0.1.0") == 1
    assert 0 < (metrics.value("process_start_time_seconds") or 0) < datetime.now(UTC).timestamp()


def test_rows_of_counters_are_added_up_and_stay_as_exact(world: World) -> None:
    with unit_of_work() as s:
        counters.add(s, [Increment("leases_lost", ("train", "train"))] * (counters.MOST_ROWS + 1))
        counters.add(s, [Increment("jobs_failed", ("internal",))])
    with unit_of_work() as s:
        counters.fold(s)
    with unit_of_work() as s:
        found = counters.totals(s)
        rows = s.scalar(select(func.count()).select_from(CounterRow))
    assert found["leases_lost"] == {("train", "train"): counters.MOST_ROWS + 1}
    assert found["jobs_failed"] == {("internal",): 1}
    assert rows == 2
    assert claim("train") is None


def test_scrapes_at_once_and_soon_after_read_the_database_once(world: World, redis_url: str) -> None:
    first = scraper()
    with counted("api") as sent:
        with unit_of_work() as s, ThreadPoolExecutor(4) as threads:
            s.execute(text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))  # the scrapes meet here
            scrapes = [threads.submit(first.series) for _ in range(4)]
            while not s.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                wait(scrapes, timeout=0.01)
            s.commit()
            found = [scrape.result() for scrape in scrapes]
        found.append(first.series())
    assert all(("outbox_hints", frozenset[tuple[str, str]]()) in each for each in found)
    assert ["outbox_oldest_seconds" in each for each in sent].count(True) == 1
