"""`celery -A workers.celery_app worker -Q light,rollouts,train --pool threads`: door 2, the queue.

Celery's threads run no user code and no torch: they claim work items and supervise children.
"""

from __future__ import annotations

import logging
from typing import Any

import celery.apps.worker
import structlog
from celery.signals import celeryd_init, setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from distill import logs, tracing
from distill.errors import in_one_line
from distill.queue import TASK, make_app
from workers import tasks

log = structlog.get_logger(__name__)
app = make_app()
app.task(name=TASK)(tasks.run)


# Celery writes what it does on a signal past all logging; `_drain` logs it.
celery.apps.worker.safe_say = lambda *_: None  # type: ignore[attr-defined, unused-ignore]


@celeryd_init.connect
def _set_up_logging(**_: object) -> None:
    """Before Celery says anything."""
    logs.configure("worker")
    tracing.configure("worker")
    for name in ("celery.worker.strategy", "celery.app.trace"):  # a hint that came and went says nothing; what it led to does
        logging.getLogger(name).setLevel(logging.WARNING)


@setup_logging.connect
def _leave_logging(**_: object) -> None:
    """Somebody listens, so Celery does not set up its own."""


@worker_init.connect
def _gather(**_: object) -> None:
    """Made here and not at import: the relay and the children belong to the worker alone. A worker that cannot work does not start."""
    try:
        tasks.crew()
    except Exception as error:
        log.error("worker cannot start", error=in_one_line(error), kind=type(error).__name__)
        raise SystemExit(1) from error  # Celery would log any other exception and go on


@worker_ready.connect
def _ready(sender: Any = None, **_: object) -> None:
    tasks.attend(tuple(sender.app.amqp.queues.consume_from), sender.controller.concurrency)
    log.info("worker ready")


@worker_shutting_down.connect
def _drain(**_: object) -> None:
    """First SIGTERM: the pool empties by itself then, and Celery's warm shutdown ends."""
    tasks.drain()


@worker_shutdown.connect
def _close(**_: object) -> None:
    tasks.close()
    tracing.stop()
