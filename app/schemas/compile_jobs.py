"""The compile job: what is asked for, and how it stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from app import examples
from app.schemas.common import Body, Metadata, Name, Reply
from app.schemas.fine_tuning import ChildFineTuneJob
from app.schemas.lms import LmIn, LmName, TeacherIn
from app.schemas.metrics import BuiltInOrStored, MetricDocument
from app.schemas.programs import ProgramDocument, PromptAdapterIn, StoredProgram
from app.schemas.rules import any_given, declared, ruled
from distill.spec import Budget, Evaluate, Filter, Holdout, Prompt, Render, Rollouts, SmokeTest
from distill.spec import Rows as RowsOfKey
from distill.spec_part import Positive
from distill.spec_training import TrainOptions

Rows = list[dict[str, Any]]
Priority = Annotated[int, Field(ge=-100, le=100)]


class JobCreate(Body):
    """The smallest one: `program`, `trainset`, `metric`. Defaults are filled in and returned."""

    model_config = examples.shown(**examples.COMPILE)

    name: str | None = Field(default=None, max_length=128)
    program_name: Name | None = Field(default=None, description="The artifact's name, and part of the tuned models' ids")
    project: str | None = Field(default=None, description="Must be the key's own project when given")
    program: StoredProgram | ProgramDocument = Field(description="`prog-…`, or a program spec (GET /v1/spec/schema.json)")
    lms: dict[LmName, LmIn] = Field(default_factory=dict)
    teacher: list[TeacherIn] | TeacherIn | Literal["labels"] | None = None
    trainset: str | Annotated[Rows, declared(minItems=1)] = Field(description="`ds-…`, or the rows")
    valset: str | Annotated[Rows, declared(minItems=1)] | None = None
    holdout: Holdout | None = None
    metric: BuiltInOrStored | MetricDocument = Field(
        default="exact_match", description="A metric's name, `{type, …}`, or the id of a stored one (`metric-…`)"
    )
    filter: Filter | None = None
    rollouts: Rollouts | None = None
    smoke_test: SmokeTest | None = Field(default=None, description="`{n: 10, min_pass: 1}` when absent; null switches it off")
    multitask: bool | None = None
    demos: Literal["keep", "drop", "auto"] | None = None
    prompt_adapter: PromptAdapterIn | None = None
    prompt: Prompt | None = Field(
        default=None,
        description="Which prompts the student is tuned on: `full` (those of its prompt adapter, the default), `compact`, or `auto`",
    )
    train_options: TrainOptions | None = None
    num_threads: Positive | None = None
    priority: Priority = Field(default=0, description="Of the project's jobs, the highest comes first; equal ones by age")
    render: Render | None = Field(default=None, description="Whose prompts the rows are rendered with")
    rows: RowsOfKey | None = Field(default=None, description="`all`: every key trains on the rows of all predictors")
    evaluate: Evaluate | None = None
    budget: Budget | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    suffix: str | None = Field(default=None, pattern=r"^[a-z0-9-]{1,18}$")
    auto_start: bool = True
    metadata: Metadata = Field(default_factory=dict)


class RetryIn(Body):
    """Nothing, or the one fine-tune job to be trained again."""

    model_config = examples.shown()

    fine_tuning_job: str | None = Field(default=None, max_length=256, description="`ftjob-…`: of the failed ones, only this")


class RefilterIn(Body):
    """What is to be other than in the job whose traces are used; absent fields stay, objects are merged field by field."""

    model_config = examples.shown(filter={"min_score": 0.8, "max_rows": 500}, name="a lower bar")

    filter: Filter | None = None
    prompt_adapter: PromptAdapterIn | None = Field(default=None, description="Of the student; the traces were made with the teacher's")
    prompt: Prompt | None = None
    demos: Literal["keep", "drop", "auto"] | None = None
    lms: dict[LmName, LmIn] | None = Field(default=None, description="The student's LMs")
    train_options: TrainOptions | None = None
    multitask: bool | None = None
    render: Render | None = None
    rows: RowsOfKey | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    evaluate: Evaluate | None = None
    name: str | None = Field(default=None, max_length=128)
    program_name: Name | None = None
    suffix: str | None = Field(default=None, pattern=r"^[a-z0-9-]{1,18}$")
    auto_start: bool = True
    metadata: Metadata = Field(default_factory=dict)


class JobUpdate(Body):
    """What may change while a job stands; absent fields stay."""

    model_config = examples.shown(name="weekly router", priority=10, budget={"max_calls": 5000}, metadata={"week": "47"})

    name: str | None = Field(default=None, max_length=128)
    priority: Priority | None = None
    metadata: Metadata | None = None
    budget: Budget | None = Field(default=None, description="Limits that are left out stay; null takes a limit away")


class StepRead(Reply):
    """Units are examples in bootstrap and evaluate, pieces of work elsewhere. Steps may add counts (`reused`, `failed`, …)."""

    name: str
    status: str = Field(description="queued (nothing of it runs now), running, succeeded, failed or cancelled")
    started_at: int | None = None
    finished_at: int | None = None
    done: int
    total: int
    error: dict[str, Any] | None = None
    counts: dict[str, Any] = Field(default_factory=dict)


class ProgressRead(Reply):
    percent: int
    seconds_remaining: int | None = None


class HolderRead(Reply):
    """A job that trains now. Of another project's job an operator alone sees which it is."""

    job: str | None = Field(description="null for a job of another project, as are `project`, `name`, `created_by` and `owner`")
    project: str | None
    name: str | None
    created_by: str | None
    owner: str | None = Field(description="The label of the key that made it")
    since: int
    seconds_remaining: int | None


class QueueRead(Reply):
    """Why work of the job does not run now: its place in line, a connection, a worker or a device that it waits for."""

    position: int | None = Field(
        None,
        description="1-based: among all jobs that wait for the `resource`; without one, among the project's jobs that have not begun",
    )
    reason: str
    resource: Literal["trainer", "device"] | None = Field(None, description="What it waits for until another job gives it up")
    held_by: list[HolderRead] = Field(default_factory=list, description="The jobs that have the resource now")
    estimated_seconds: int | None = Field(
        None, description="Until the job's turn, from the progress of the holders and the usual length of trainings; null when unknown"
    )


class PauseRead(Reply):
    """That a job is to stand still, and why. It is `paused` when its running work has stopped."""

    requested_at: int
    code: str = Field(description="`requested` (somebody asked for it), `budget_exhausted`, `deadline_passed` or `usage_unknown`")
    message: str
    param: str | None = Field(default=None, description="The limit that is in the way: `budget.max_calls`, …")
    data: dict[str, Any] | None = Field(
        default=None,
        description="Of a budget, in its own unit: `limit`, `spent`, `next` (what one more rollout needs) and `needed` (in all, about; "
        "null where it cannot be told yet)",
    )


class JobErrorRead(Reply):
    """Why a job failed, and whether doing it again can help."""

    code: str
    message: str
    param: str | None = None
    category: Literal["user", "system"]
    step: str | None = None
    retryable: bool = False
    data: dict[str, Any] | None = Field(
        default=None, description="The counts behind the message: coverage, score histogram, errors; `advice` is its end"
    )


class WarningRead(Reply):
    code: str
    message: str
    url: str | None = None


class ArtifactLink(Reply):
    id: str
    name: str | None
    load: str = Field(description="The Python expression that loads it")
    content: str = Field(description="Path of the tar.gz")


class ModelCost(Reply):
    """One LM, on one side: what was `paid` for, or `saved` by traces of earlier jobs and by replies that were paid before. `usd` is null
    where the price is not known."""

    model: str = Field(description="`connection/model`")
    side: Literal["teacher", "student"]
    kind: Literal["paid", "saved"]
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    usd: float | None


class CostRead(Reply):
    """What is known so far, in US dollars; parts that nobody priced are null and named in `unknown`, and the total is null then."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    teacher_usd: float | None = None
    student_usd: float | None = Field(default=None, description="The student's own calls, for its scores before and after training")
    judge_usd: float | None = None
    compute_seconds: float = 0
    compute_usd: float | None = None
    saved_calls: int = Field(
        default=0, description="Calls that were not made, since an earlier job of the project, or a run that was broken off, had made them"
    )
    saved_by_reuse_usd: float | None = None
    total_usd: float | None = None
    unknown: list[str] = Field(default_factory=list)
    models: list[ModelCost] = Field(default_factory=list)


class JobRead(Reply):
    """A compile job. Final statuses: `succeeded`, `failed`, `cancelled`; treat statuses and steps as open sets."""

    id: str
    object: Literal["compile.job"] = "compile.job"
    created_at: int
    created_by: str | None = Field(description="The id of the API key that made it")
    owner: str | None = Field(description="The label of that key")
    project: str
    name: str | None
    program_name: str
    status: str = Field(description="created, queued, running, paused, succeeded, failed or cancelled; `running` once work has begun")
    waiting: bool = Field(description="True while the job is `queued` or `running` and nothing of it runs; `queue` says what it waits for")
    step: str | None
    round: int
    derived_from: str | None = None
    cancel_requested_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    erased_at: int | None = Field(default=None, description="Since when its events, rows and files are gone")
    steps: list[StepRead]
    program: str
    teacher: list[dict[str, Any]] | Literal["labels"]
    lms: dict[str, dict[str, Any]]
    trainset: str
    valset: str | None
    holdout: dict[str, Any] | None
    metric: dict[str, Any]
    filter: dict[str, Any]
    rollouts: dict[str, Any]
    smoke_test: dict[str, Any] | None
    multitask: bool
    demos: str
    prompt_adapter: dict[str, Any] | None
    prompt: str = Field(description="compact, full or auto, as asked for; `lms` say which was chosen")
    train_options: dict[str, Any]
    num_threads: int
    priority: int
    render: str
    rows: str
    evaluate: dict[str, Any]
    budget: dict[str, Any] = Field(description="The limits that hold now")
    seed: int
    suffix: str | None
    auto_start: bool
    progress: ProgressRead
    queue: QueueRead | None
    pause: PauseRead | None = Field(description="Of a job that is paused or about to be")
    fine_tuning_jobs: list[ChildFineTuneJob]
    evaluation: dict[str, Any] | None
    cost: CostRead
    warnings: list[WarningRead]
    artifact: ArtifactLink | None
    spec_digest: str
    etag: str = Field(description="Of name, priority, metadata and budget; send it back as `If-Match` with a change")
    error: JobErrorRead | None
    metadata: dict[str, str]


class DryRunRead(Reply):
    """A request that `create` would take."""

    object: Literal["compile.job.dry_run"] = "compile.job.dry_run"
    job: dict[str, Any] = Field(description="What was asked, with every default filled in; what was sent inline has no id and is null")


class EventRead(Reply):
    id: int = Field(description="The job's own sequence, without gaps; send it back as Last-Event-ID")
    object: Literal["compile.job.event"] = "compile.job.event"
    created_at: int
    level: str
    type: str = Field(
        description="`status`, `step`, `bootstrap.progress` (and of other steps), `bootstrap.rejected` (examples without an answer that "
        "passes, by reason), `sample` (an answer that passes), `train.curve`, `checkpoint`, `eval.result`, `cost` (so far), `log`, "
        "`warning`, `done`; treat it as an open set"
    )
    message: str
    data: dict[str, Any]


class TraceRead(Reply):
    """One rollout of one program on one example."""

    id: str
    object: Literal["trace"] = "trace"
    cursor: str = Field(description="Send it as `after` for the page after")
    created_at: int
    role: str | None = None
    row: int | None = Field(default=None, description="1-based row of the dataset")
    rollout: int | None = None
    status: str
    reused: bool = Field(description="It was there before this job")
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None
    calls: list[dict[str, Any]]
    usage: dict[str, Any]
    cost_usd: float | None = Field(default=None, description="What the rollout cost whoever ran it; null where the price is not known")
    error: dict[str, Any] | None
    score: dict[str, Any] | None


class RejectionRead(Reply):
    """A row or trace that did not become a training record, and why."""

    object: Literal["rejection"] = "rejection"
    cursor: str = Field(description="Send it as `after` for the page after")
    row: int = Field(description="1-based row of the dataset")
    rollout: int
    role: str
    predictor: str | None
    trace_digest: str | None
    reason: str
    message: str | None
    score: float | None
    tokens: int | None = Field(default=None, description="Of a record that was too long")


class CurvePoint(Reply):
    model_config = ConfigDict(extra="allow")

    step: int
    epoch: float | None = None
    loss: float | None = None
    validation_loss: float | None = None
    validation_exact_match: float | None = Field(
        default=None, description="Share of validation rows whose every answer token is the likeliest after the right ones before it"
    )
    at: float | None = None


class CurveRead(Reply):
    fine_tuning_job: str
    lm: str
    predictor: str
    points: list[CurvePoint]


class CancelMany(Body):
    """Which jobs are to stop: those that meet all that is given, of which there must be something."""

    model_config = ruled(examples.shown(created_by="nightly"), any_given("created_by", "program", "status", "project"))

    created_by: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="`me`, or a key's id or label")
    program: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="A program's id, or a job's `program_name`")
    status: Literal["created", "queued", "running", "paused"] | None = None
    project: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="The key's own unless given; an operator may name another, or `*` for all"
    )

    @model_validator(mode="after")
    def _names_something(self) -> CancelMany:
        if all(value is None for value in (self.created_by, self.program, self.status, self.project)):
            raise ValueError("say which jobs: `created_by`, `program`, `status` or `project`")
        return self


class CancelledJob(Reply):
    id: str
    object: Literal["compile.job"] = "compile.job"
    status: str = Field(description="`cancelled`, or what it was while its running work stops")


class CancelledJobs(Reply):
    object: Literal["list"] = "list"
    data: list[CancelledJob]
    has_more: bool
