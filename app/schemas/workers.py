"""Worker processes and queues."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.schemas.common import Reply


class WorkerRead(Reply):
    """A worker process."""

    name: str
    object: Literal["worker"] = "worker"
    alive: bool = Field(description="It was heard of lately")
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
