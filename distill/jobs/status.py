"""The words for where jobs, steps and work items stand, and the edges they may take."""

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


JOB_EDGES: dict[str, tuple[tuple[JobStatus | None, ...], JobStatus]] = {
    "A": ((None,), JobStatus.CREATED),
    "B": ((None,), JobStatus.QUEUED),
    "C": ((JobStatus.CREATED,), JobStatus.QUEUED),
    "D": ((JobStatus.CREATED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED), JobStatus.CANCELLED),
    "E": ((JobStatus.QUEUED,), JobStatus.RUNNING),
    "F": ((JobStatus.QUEUED, JobStatus.RUNNING), JobStatus.PAUSED),
    "G": ((JobStatus.QUEUED, JobStatus.RUNNING), JobStatus.FAILED),
    "H": ((JobStatus.RUNNING,), JobStatus.SUCCEEDED),
    "I": ((JobStatus.PAUSED,), JobStatus.QUEUED),
    "J": ((JobStatus.FAILED,), JobStatus.QUEUED),
}
"""By the letter that an edge has in docs/lifecycle.md: where it begins (None: with a new row), and where it ends."""

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    status: frozenset(target for sources, target in JOB_EDGES.values() if status in sources) for status in JobStatus
}


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


ITEM_EDGES: dict[str, tuple[tuple[ItemStatus | None, ...], ItemStatus]] = {
    "K": ((None,), ItemStatus.QUEUED),
    "L": ((ItemStatus.QUEUED,), ItemStatus.LEASED),
    "M": ((ItemStatus.LEASED,), ItemStatus.SUCCEEDED),
    "N": ((ItemStatus.LEASED,), ItemStatus.FAILED),
    "O": ((ItemStatus.LEASED,), ItemStatus.QUEUED),
    "P": ((ItemStatus.QUEUED,), ItemStatus.CANCELLED),
    "Q": ((ItemStatus.FAILED, ItemStatus.CANCELLED), ItemStatus.QUEUED),
    "R": ((ItemStatus.SUCCEEDED,), ItemStatus.QUEUED),
}
"""As JOB_EDGES. The statements that walk them are in claim_sql, lifecycle and retrying."""


class FineTuneStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINE_TUNE_EDGES: dict[str, tuple[tuple[FineTuneStatus | None, ...], FineTuneStatus]] = {
    "S": ((None,), FineTuneStatus.QUEUED),
    "T": ((FineTuneStatus.QUEUED,), FineTuneStatus.RUNNING),
    "U": ((FineTuneStatus.RUNNING,), FineTuneStatus.SUCCEEDED),
    "V": ((FineTuneStatus.RUNNING,), FineTuneStatus.FAILED),
    "W": ((FineTuneStatus.QUEUED, FineTuneStatus.RUNNING), FineTuneStatus.CANCELLED),
    "X": ((FineTuneStatus.FAILED, FineTuneStatus.CANCELLED), FineTuneStatus.QUEUED),
    "Y": ((FineTuneStatus.CANCELLED,), FineTuneStatus.RUNNING),
}
"""As JOB_EDGES."""


POISON_AFTER = 3
"""Leases lost in a row, without getting further, that make a work item fail: it kills its workers."""


class JobKind(StrEnum):
    COMPILE = "compile"
    FINE_TUNE = "fine_tune"


class Queue(StrEnum):
    """Queues by what their workers can do: `light` runs no user code, `train` starts trainers. `client` has no workers: its items are
    claimed over HTTP, by whoever has the program."""

    LIGHT = "light"
    ROLLOUTS = "rollouts"
    TRAIN = "train"
    CLIENT = "client"


WORKER_QUEUES = (Queue.LIGHT, Queue.ROLLOUTS, Queue.TRAIN)
QUEUE_OF: dict[Step, Queue] = {
    Step.VALIDATE: Queue.ROLLOUTS,
    Step.BOOTSTRAP: Queue.ROLLOUTS,
    Step.PREPARE: Queue.ROLLOUTS,
    Step.ASSEMBLE: Queue.LIGHT,
    Step.TRAIN: Queue.TRAIN,
    Step.EVALUATE: Queue.ROLLOUTS,
    Step.PACKAGE: Queue.LIGHT,
}
