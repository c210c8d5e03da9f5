"""Metrics for Prometheus: those of this process, and those of the whole server, which are read from the database."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.fresh import Fresh
from app.server_metrics import families_of, gauges_of
from distill.db import Session, pool_use
from distill.jobs import gauges
from distill.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATE_SECONDS = 5.0
"""What the database says is read anew after this time, by one scrape for all: its cost grows with the open jobs."""
BLOBS_SECONDS = 300.0
"""The same of the sum over all blobs."""
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """A registry of its own, so that two apps in one process do not meet."""

    def __init__(self, settings: Settings, version: str) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter("stillhouse_http_requests", "Requests answered", labels, registry=self._registry)
        self._seconds = Histogram(
            "stillhouse_http_request_seconds", "Until the reply ended", ["method", "route"], buckets=_BUCKETS, registry=self._registry
        )
        Info("stillhouse_build", "The release of this process", registry=self._registry).info({"version": version})
        ProcessCollector(registry=self._registry)
        self._registry.register(_Machine(settings))
        self._state: Fresh[list[Metric]] = Fresh()
        self._blobs: Fresh[list[Metric]] = Fresh()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is a template such as `/v1/programs/{program_id}`."""
        method = method if method in METHODS else "other"  # anybody may invent one, and each is a series
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self, s: Session) -> bytes:
        """The exposition format."""
        state = self._state.get(STATE_SECONDS, lambda: families_of(s))
        blobs = self._blobs.get(BLOBS_SECONDS, lambda: gauges_of(s, gauges.BLOBS))
        return generate_latest(_Families([*self._registry.collect(), *state, *blobs]))


class _Machine(Collector):
    """Disks, and the pool of connections to the database."""

    def __init__(self, settings: Settings) -> None:
        self._folders = {"home": settings.home, **({} if settings.blobs.bucket else {"blobs": settings.blob_root})}

    def collect(self) -> Iterator[Metric]:
        free = GaugeMetricFamily("stillhouse_disk_free_bytes", "Free space where this process has its home, and blobs", labels=["folder"])
        size = GaugeMetricFamily("stillhouse_disk_size_bytes", "Size of that file system", labels=["folder"])
        for name, folder in self._folders.items():
            usage = shutil.disk_usage(_existing(folder.absolute()))
            free.add_metric([name], usage.free)
            size.add_metric([name], usage.total)
        pool = GaugeMetricFamily("stillhouse_database_connections", "Of this process's pool, by state", labels=["state"])
        for state, number in pool_use("api").items():
            pool.add_metric([state], number)
        yield from (free, size, pool)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it: it is made when something is written."""
    return next(each for each in (folder, *folder.parents) if each.exists())
