"""The words for where jobs, steps and work items stand, and the edges a job may take."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """No work item of such a job is claimable. `failed` is left by a user's retry alone."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

    @property
    def is_claimable(self) -> bool:
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.CREATED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""Compared with the chart in docs/lifecycle.md by a test."""


class Step(StrEnum):
    VALIDATE = "validate"
    BOOTSTRAP = "bootstrap"
    PREPARE = "prepare"
    ASSEMBLE = "assemble"
    """The second half of `prepare`: one item over all its parts. Readers see both as `prepare`."""
    TRAIN = "train"
    EVALUATE = "evaluate"
    PACKAGE = "package"

    @property
    def public(self) -> Step:
        """The step's name as the interface shows it."""
        return Step.PREPARE if self is Step.ASSEMBLE else self


class StepStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ItemStatus(StrEnum):
    QUEUED = "queued"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FineTuneStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    COMPILE = "compile"
    FINE_TUNE = "fine_tune"


class Queue(StrEnum):
    """Queues by what their workers can do: `light` runs no user code, `train` starts trainers."""

    LIGHT = "light"
    ROLLOUTS = "rollouts"
    TRAIN = "train"


QUEUE_OF: dict[Step, Queue] = {
    Step.VALIDATE: Queue.ROLLOUTS,
    Step.BOOTSTRAP: Queue.ROLLOUTS,
    Step.PREPARE: Queue.ROLLOUTS,
    Step.ASSEMBLE: Queue.LIGHT,
    Step.TRAIN: Queue.TRAIN,
    Step.EVALUATE: Queue.ROLLOUTS,
    Step.PACKAGE: Queue.LIGHT,
}
