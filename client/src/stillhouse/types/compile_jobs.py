"""Compile jobs and what they are made of. Times are Unix seconds, durations seconds."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stillhouse.types.base import Object

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


class Step(Object):
    name: str
    status: str
    done: int = 0
    total: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    error: dict[str, Any] | None = None
    counts: dict[str, Any] = Field(default_factory=dict)


class Progress(Object):
    percent: int = 0
    seconds_remaining: int | None = None


class Holder(Object):
    """A job that trains now. Of another project's job the fields that would say which it is are None."""

    job: str | None = None
    project: str | None = None
    name: str | None = None
    created_by: str | None = None
    owner: str | None = None
    since: int = 0
    seconds_remaining: int | None = None


class Queue(Object):
    """Why work of a job does not run now.

    `position`, from 1, is among all jobs that wait for the `resource`; without one, among the project's jobs that have not begun.
    """

    position: int | None = None
    reason: str = ""
    resource: str | None = None
    held_by: list[Holder] = Field(default_factory=list)
    estimated_seconds: int | None = None


class Pause(Object):
    """That a job is to stand still, and why. Of a budget `data` says what is spent and what raising it would need."""

    requested_at: int
    code: str
    message: str
    param: str | None = None
    data: dict[str, Any] | None = None


class JobError(Object):
    code: str
    message: str
    param: str | None = None
    category: str = "system"
    step: str | None = None
    retryable: bool = False
    data: dict[str, Any] | None = None


class JobWarning(Object):
    code: str
    message: str
    url: str | None = None


class JobArtifact(Object):
    id: str
    name: str | None = None


class FineTuneJob(Object):
    """A child of a compile job: the training of one LoRA adapter."""

    id: str
    status: str
    lm: str | None = None
    predictor: str | None = None
    rows: int | None = None
    progress: dict[str, Any] | None = None
    fine_tuned_model: str | None = None
    reused_from: str | None = None
    train_options: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def percent(self) -> float:
        """How much of the training is done, 0 to 100."""
        return 100.0 if self.status == "succeeded" else float((self.progress or {}).get("percent") or 0)


class TrainingLog(Object):
    """What the trainer wrote for one fine-tune job; `truncated` when it begins later than the log does."""

    fine_tuning_job: str
    lm: str
    predictor: str
    status: str
    text: str = ""
    truncated: bool = False
    reused_from: str | None = None


class Cost(Object):
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    teacher_usd: float | None = None
    student_usd: float | None = None
    compute_seconds: float = 0.0
    compute_usd: float | None = None
    saved_calls: int = 0
    saved_by_reuse_usd: float | None = None
    total_usd: float | None = None
    unknown: list[str] = Field(default_factory=list)
    models: list[dict[str, Any]] = Field(default_factory=list)


class RoleEstimate(Object):
    """What the rollouts of one role would take; None for what nobody can know yet."""

    role: str
    examples: int = 0
    stored: int = 0
    rollouts: int = 0
    calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None


class Estimate(Object):
    """What a job would ask and cost. Sums are None while a part is not known; `unknown` names the parts."""

    spec_digest: str | None = None
    rows: dict[str, int] = Field(default_factory=dict)
    calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_usd: float | None = None
    seconds: float | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    roles: list[RoleEstimate] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list)
    warnings: list[JobWarning] = Field(default_factory=list)


class DryRun(Object):
    """A request that `create` would take: `job` is what was asked, with every default filled in."""

    job: dict[str, Any]


class CompileJob(Object):
    id: str
    status: str
    waiting: bool = False
    created_at: int
    created_by: str | None = None
    owner: str | None = None
    cancel_requested_at: int | None = None
    name: str | None = None
    program_name: str | None = None
    project: str | None = None
    program: str | None = None
    trainset: str | None = None
    valset: str | None = None
    step: str | None = None
    steps: list[Step] = Field(default_factory=list)
    progress: Progress = Field(default_factory=Progress)
    rollouts: dict[str, Any] = Field(default_factory=dict)
    num_threads: int = 8
    queue: Queue | None = None
    pause: Pause | None = None
    fine_tuning_jobs: list[FineTuneJob] = Field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    cost: Cost | None = None
    warnings: list[JobWarning] = Field(default_factory=list)
    artifact: JobArtifact | None = None
    round: int = 1
    derived_from: str | None = None
    error: JobError | None = None
    budget: dict[str, Any] = Field(default_factory=dict)
    etag: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """True when the status will not change again (a failed job changes only by a user's retry)."""
        return self.status in FINAL_STATUSES

    @property
    def stands_still(self) -> bool:
        """True when nothing goes on until somebody asks for it: final, or paused."""
        return self.is_final or self.status == "paused"


class CancelledJob(Object):
    """A job that was asked to stop, with its status then."""

    id: str
    status: str


class CancelledJobs(Object):
    data: list[CancelledJob] = Field(default_factory=list)
    has_more: bool = False


class Event(Object):
    """One thing that happened to a job; `id` counts up by one within the job."""

    id: int
    created_at: int
    type: str
    message: str
    level: str = "info"
    data: dict[str, Any] = Field(default_factory=dict)


class Trace(Object):
    id: str
    status: str
    inputs: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    calls: list[dict[str, Any]] = Field(default_factory=list)
    score: dict[str, Any] | None = None
    row: int | None = None
    role: str | None = None


class Rejection(Object):
    reason: str
    message: str | None = None
    row: int | None = None
    predictor: str | None = None
    score: float | None = None


class RoleScore(Object):
    """How one role did on the held-out examples; `low` and `high` are the ends of the 95 % interval.

    `undecided` examples could not be run; they are not in `n`. `per_call` has the mean `prompt_tokens`, `completion_tokens` and `usd` of
    a call.
    """

    role: str
    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    undecided: int = 0
    parse_failures: int = 0
    failures: int = 0
    latency_seconds: dict[str, float | None] = Field(default_factory=dict)
    usage: dict[str, int] = Field(default_factory=dict)
    per_call: dict[str, float | None] | None = None


class Evaluation(Object):
    """`delta` compares the compiled program with the one to beat; `note` says why no verdict is possible, where none is.

    `references` are answers that ask no model, fitted on the same rows: `majority_class` and `tfidf`.
    """

    data: list[RoleScore] = Field(default_factory=list)
    n: int | None = None
    metric: str | None = None
    delta: dict[str, Any] | None = None
    references: dict[str, dict[str, Any]] = Field(default_factory=dict)
    note: str | None = None


class Pair(Object):
    """One held-out example under two roles. `change` is `fix`, `regression`, `same` or `undecided`."""

    row: int
    change: str
    difference: float | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    compiled: dict[str, Any] = Field(default_factory=dict)
    against: dict[str, Any] = Field(default_factory=dict)


class TrainingFile(Object):
    fine_tuning_job: str
    lm: str
    predictor: str
    rows: int
    validation_rows: int = 0
    digest: str


class Coverage(Object):
    """What became of the traces: `traces` of the teacher, `passed` of them; each key says what of it was kept, left out and rejected."""

    traces: int
    passed: int
    keys: list[dict[str, Any]] = Field(default_factory=list)


class Curve(Object):
    fine_tuning_job: str
    lm: str
    predictor: str
    points: list[dict[str, Any]] = Field(default_factory=list)
