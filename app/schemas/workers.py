"""Worker processes and queues."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply


class WorkerRead(Reply):
    """A worker process."""

    name: str
    object: Literal["worker"] = "worker"
    alive: bool = Field(description="It was heard of lately")
    draining: bool = Field(description="The server is drained: the worker takes no work item")
    queues: list[str]
    capabilities: list[str] = Field(description="What its work items may need")
    threads: int | None = Field(description="null, as `version`: of a release that does not say")
    threads_busy: int = Field(description="Work items that it holds")
    threads_free: int | None
    version: str | None
    started_at: int
    seen_at: int


class QueueStateRead(Reply):
    """One queue, over all projects."""

    name: str
    object: Literal["queue"] = "queue"
    depth: int = Field(description="Work items that are due and not yet claimed")
    oldest_seconds: int | None = Field(description="How long the oldest of them has been due")
    running: int = Field(description="Work items that somebody works on")
    workers: int = Field(description="Live workers that listen to it")
    threads: int = Field(description="Theirs; a worker of several queues counts for each")
    threads_busy: int


class MaintenanceIn(Body):
    model_config = examples.shown(reason="upgrade to the next release")

    reason: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = Field(
        default=None, description="Callers whose jobs are refused read it"
    )


class MaintenanceRead(Reply):
    """Whether the server is drained."""

    object: Literal["maintenance"] = "maintenance"
    draining: bool = Field(description="It takes no new jobs, and no work item is claimed")
    since: int | None
    reason: str | None
    running_items: int = Field(description="Work items that workers or clients still hold")
