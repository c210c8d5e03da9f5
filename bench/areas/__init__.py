"""One module an area: `measure(session)` returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from bench.report import Figure
from bench.session import Session

AREAS = {
    "jobs": "submit to first claim, overhead a work item, requests of jobs",
    "line": "claim and publish a work item, with few and with 100,000 queued",
    "scrape": "a scrape of /metrics, with few and with 100,000 jobs",
    "runner": "start of a runner",
    "rollouts": "rollouts a second against dspy.Evaluate",
    "scale": "memory and time an example at 1,000 and at 100,000 examples",
    "training": "training and held-out score against TRL",
    "beside": "a training beside an evaluation, against a training alone",
    "lm_host": "LM host against transformers' generate",
    "celery": "Celery threads against prefork",
}


def measure_of(area: str) -> Callable[[Session], list[Figure]]:
    """The area's function; its module, with what it needs, is imported here. Raises KeyError."""
    if area not in AREAS:
        raise KeyError(area)
    found: Callable[[Session], list[Figure]] = import_module(f"bench.areas.{area}").measure
    return found
