"""Celery, and nothing but hints: a message says "something on this queue may be claimable". The rows are the queue.

Everything Celery offers to redeliver, delay, revoke or remember is off: leases, `run_after`, requests and rows do that. Losing every
message costs a minute; a doubled one costs a look.
"""

from __future__ import annotations

from functools import cache

from celery import Celery
from kombu import Queue as Route

from distill.settings import get_settings

TASK = "work.run"
QUEUES = ("light", "rollouts", "train")
MAX_HINTS = 16
"""Per queue and round: more would only find the queue empty, since a task claims again until nothing is left."""


def make_app() -> Celery:
    """A Celery application for this process's Redis, configured for hints."""
    app = Celery("stillhouse", broker=get_settings().redis_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[Route(name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # Short is safe: messages are acknowledged before the work, and none is delayed.
            "visibility_timeout": 300,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 5,
            "global_keyprefix": "sh:",
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


@cache
def _sender() -> Celery:
    return make_app()


def send_hint(queue: str) -> None:
    """Send one hint. Raises kombu's OperationalError, within seconds, when Redis does not take it."""
    _sender().send_task(TASK, args=[queue], queue=queue, ignore_result=True, retry=False)
