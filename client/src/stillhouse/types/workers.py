"""Worker processes and queues."""

from __future__ import annotations

from pydantic import Field

from stillhouse.types.base import Object


class Worker(Object):
    """A worker process; `threads` and `version` are None of a release that does not say."""

    name: str
    alive: bool = True
    draining: bool = False
    queues: list[str] = Field(default_factory=list)
    capabilities: list[str] = Field(default_factory=list)
    threads: int | None = None
    threads_busy: int = 0
    threads_free: int | None = None
    version: str | None = None
    started_at: int = 0
    seen_at: int = 0


class QueueState(Object):
    """One queue: `depth` counts work items that are due and not yet claimed, `running` those that somebody works on."""

    name: str
    depth: int = 0
    oldest_seconds: int | None = None
    running: int = 0
    workers: int = 0
    threads: int = 0
    threads_busy: int = 0


class MaintenanceState(Object):
    """Whether the server is drained: then it takes no new jobs, and no work item is claimed. `running_items` are still held."""

    draining: bool
    since: int | None = None
    reason: str | None = None
    running_items: int = 0
