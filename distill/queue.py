"""Celery, and nothing but hints: a message says "something on this queue may be claimable". The rows are the queue.

Everything Celery offers to redeliver, delay, revoke or remember is off: leases, `run_after`, requests and rows do that. Losing every
message costs a minute; a doubled one costs a look.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import redis
import structlog
from celery import Celery
from kombu import Queue as Route
from kombu.exceptions import OperationalError

from distill.errors import StartRefused
from distill.settings import get_settings

log = structlog.get_logger(__name__)

TASK = "work.run"
QUEUES = ("light", "rollouts", "train")
KEEPS_ALL = "noeviction"
MAX_HINTS = 16
"""Of a queue that wait at once: more would only find the queue empty, since a task claims again until nothing is left."""


_TRANSPORT: dict[str, Any] = {
    "visibility_timeout": 300,  # short is safe: messages are acknowledged before the work, and none is delayed
    "unacked_restore_interval": 1,  # what a worker had fetched but not begun when it died is back in the queue soon
    "unacked_restore_throttle": 5,
    "global_keyprefix": "sh:",  # the same on all processes; a Redis that others use too keeps us apart
    "socket_timeout": 10,  # without it, sending over a dead connection waits for ever
    "socket_connect_timeout": 3,  # a host that is gone is noticed in seconds
    "socket_keepalive": True,  # a firewall that drops idle connections is noticed
    "health_check_interval": 25,  # and so is a connection that only looks alive
}
_SETTINGS: dict[str, Any] = {
    "broker_transport_options": _TRANSPORT,
    "accept_content": ["json"],  # no pickle: a message is data, never code
    "task_serializer": "json",
    "result_backend": None,  # results are rows; a result store in Redis expires, blocks publishing, and was a way in
    "task_ignore_result": True,
    "task_queues": [Route(name) for name in QUEUES],
    "task_default_queue": QUEUES[0],
    "task_create_missing_queues": False,  # a misspelt queue is an error, not a queue that nobody reads
    "task_acks_late": False,  # the lease is what redelivers; a late acknowledgement only makes copies
    "task_reject_on_worker_lost": False,  # would send a message that kills its worker to the next one, for ever
    "task_retry_on_worker_lost": False,
    "task_time_limit": None,  # deadlines are the supervisors': Celery's would leave grandchildren running
    "task_soft_time_limit": None,
    "worker_disable_prefetch": True,  # a busy worker must not keep a hint that an idle one could follow
    "worker_prefetch_multiplier": 1,
    "worker_pool": "threads",  # decision 0001
    "worker_enable_remote_control": False,  # nobody steers workers through Redis
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,  # logs are ours
    "worker_redirect_stdouts": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # a lost Redis is no reason to stop work that is leased
    "worker_soft_shutdown_timeout": 0,  # our drain empties the pool, so that a warm shutdown ends by itself
    "broker_connection_retry_on_startup": True,  # Redis may come later, or restart
    "broker_connection_max_retries": None,  # for as long as it takes
}


def make_app() -> Celery:
    """A Celery application for this process's Redis, configured for hints."""
    app = Celery("stillhouse", broker=get_settings().redis_url, set_as_current=False)
    app.conf.update(_SETTINGS)
    return app


@cache
def _sender() -> Celery:
    return make_app()


@cache
def _looker(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3)


def send_hint(queue: str) -> None:
    """Send one hint, unless as many wait as could be of use: where nobody listens they would pile up for ever.

    Raises kombu's OperationalError, within seconds, when Redis does not take it.
    """
    try:
        waiting = _looker(get_settings().redis_url).llen(f"{_TRANSPORT['global_keyprefix']}{queue}")
    except redis.RedisError as error:
        raise OperationalError(str(error)) from error
    if waiting >= MAX_HINTS:
        return
    _sender().send_task(TASK, args=[queue], queue=queue, ignore_result=True, retry=False)


def broker_facts() -> dict[str, Any]:
    """What Redis tells of itself (INFO). Raises redis.RedisError."""
    return dict(_looker(get_settings().redis_url).info())


def check_broker() -> None:
    """Every process calls it at start. Raises StartRefused when Redis may throw hints away.

    One that does not answer now is no reason: jobs are accepted, leased and reaped without it.
    """
    try:
        policy = broker_facts().get("maxmemory_policy", KEEPS_ALL)
    except redis.RedisError as error:
        log.warning("redis does not answer yet", error=str(error))
        return
    if policy != KEEPS_ALL:
        raise StartRefused(
            f"Redis may throw hints away: its maxmemory-policy is {policy}. Set `maxmemory-policy {KEEPS_ALL}` in its configuration, "
            "or give Stillhouse a Redis of its own"
        )
