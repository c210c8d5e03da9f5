"""Work of a client's job: what is held, and what came of sending facts in."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stillhouse.types.base import Object


class ProgramToRun(Object):
    """What runs in some rollouts: the spec, and of each LM the gateway's name, options and features."""

    rollouts: list[int]
    program: dict[str, Any]
    prompt_adapter: dict[str, Any]
    lms: dict[str, dict[str, Any]]


class ExampleToRun(Object):
    """`row` is 1-based. `rollouts`: those that may be made, with the trace and score that are stored already."""

    row: int
    inputs: dict[str, Any]
    labels: dict[str, Any]
    rollouts: list[dict[str, Any]]


class WorkItem(Object):
    """A slice of a job, held until its lease ends; a beat renews it."""

    id: str
    fence: int
    job: str
    step: str
    role: str
    attempt: int = 1
    width: int = 1
    lease_seconds: float = 120.0
    beat_seconds: float = 10.0
    min_score: float = 1.0
    stop_on_pass: bool = False
    metric: dict[str, Any] = Field(default_factory=dict)
    programs: list[ProgramToRun]
    examples: list[ExampleToRun]


class Claimed(Object):
    item: WorkItem | None = None


class Beat(Object):
    """Stop and release the item when one of them is true."""

    id: str
    cancel: bool = False
    pause: bool = False


class WorkItemEnded(Object):
    id: str
    status: str


class Stored(Object):
    """How many traces or scores were sent, and how many of them were not there yet; `skipped` scores judged another answer than the one
    that is stored."""

    received: int
    new: int
    skipped: int = 0
