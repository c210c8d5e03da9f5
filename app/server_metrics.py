"""Metrics of the whole server as Prometheus has them: gauges of how it stands, and what was counted in the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from distill.catalog import counters
from distill.catalog.counters import JOB_SECONDS, LM_REQUEST_SECONDS, STEP_SECONDS, Histogram, Labels
from distill.db import Session
from distill.jobs import gauges
from distill.jobs.gauges import Source

Totals = Mapping[str, Mapping[Labels, float]]


@dataclass(frozen=True)
class _Counted:
    help: str
    labels: tuple[str, ...]


_CONNECTION = ("connection", "project")
_COUNTERS = {
    "jobs_finished": _Counted("Jobs that ended; a job that is retried ends again", ("project", "status")),
    "jobs_failed": _Counted("Jobs that failed, by the code of their error; `other` for codes that clients and programs bring", ("code",)),
    "leases_lost": _Counted("Leases that lapsed, since their worker or client was not heard of any more", ("queue", "step")),
    "lm_requests": _Counted("Requests to the LM hosts of connections; outcome is ok, or the code of the error", (*_CONNECTION, "outcome")),
    "lm_tokens": _Counted("Tokens of their answers", (*_CONNECTION, "kind")),
    "lm_cost_usd": _Counted("What the answers cost in US dollars, as far as prices are known", _CONNECTION),
    "webhook_attempts": _Counted("Tries of webhook deliveries", ("outcome",)),
}
_HISTOGRAMS: dict[Histogram, _Counted] = {
    JOB_SECONDS: _Counted("From a job's creation to its end", ("kind", "status")),
    STEP_SECONDS: _Counted("From the first claim of a step's work to its end, of steps that succeeded", ("step",)),
    LM_REQUEST_SECONDS: _Counted("Until an LM host has answered; of streams, until the answer begins", _CONNECTION),
}


def families_of(s: Session) -> list[Metric]:
    """All but the sum over blobs."""
    found = [family for source in gauges.SOURCES for family in gauges_of(s, source)]
    totals = _named(counters.totals(s), gauges.names_of_projects(s), gauges.names_of_connections(s))
    return [*found, *_counters(totals), *_histograms(totals)]


def gauges_of(s: Session, source: Source) -> list[Metric]:
    """The gauges of one statement."""
    found: list[Metric] = []
    for gauge, samples in gauges.read(s, source).items():
        family = GaugeMetricFamily(f"stillhouse_{gauge.name}", gauge.help, labels=gauge.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        found.append(family)
    return found


def _counters(totals: Totals) -> Iterator[Metric]:
    for name, counted in _COUNTERS.items():
        family = CounterMetricFamily(f"stillhouse_{name}", counted.help, labels=counted.labels)
        for labels, total in totals.get(name, {}).items():
            family.add_metric(labels, total)
        yield family


def _histograms(totals: Totals) -> Iterator[Metric]:
    for histogram, counted in _HISTOGRAMS.items():
        family = HistogramMetricFamily(f"stillhouse_{histogram.name}", counted.help, labels=counted.labels)
        for labels, buckets, total in histogram.read(totals):
            family.add_metric(labels, buckets, total)
        yield family


def _named(totals: Totals, projects: Mapping[str, str], connections: Mapping[str, tuple[str, str]]) -> Totals:
    """With names in the place of ids. What has the same names, such as a connection and the removed one before it, is one series."""
    found: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    for name, by_labels in totals.items():
        for labels, total in by_labels.items():
            if name.startswith("lm_"):
                labels = (*connections.get(labels[0], (labels[0], "")), *labels[1:])
            elif name == "jobs_finished":
                labels = (projects.get(labels[0], labels[0]), *labels[1:])
            found[name][labels] += total
    return found
