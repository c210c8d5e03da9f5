"""Client rollouts: work items that a client claims, and the traces and scores that it sends in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app import examples
from app.schemas.common import Body, Reply
from app.schemas.rules import NULL, WITHOUT_NUL, if_ok, needs, ruled

MOST_AT_ONCE = 500
RoleIn = Annotated[str, Field(min_length=1, max_length=100, description="`teacher:0`, `baseline`, `teacher`, `compiled`, `incumbent`")]
RowIn = Annotated[int, Field(ge=1, lt=2**40, description="1-based row of the dataset")]
RolloutIn = Annotated[int, Field(ge=0, lt=64)]
Count = Annotated[int, Field(ge=0, lt=2**40)]
Seconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
Message = Annotated[str, Field(max_length=2000)]
ItemId = Annotated[str, Field(pattern=r"^work-[0-9]{1,18}$", description="`work-…`, of a claim")]


class ClaimIn(Body):
    """Who claims. Without `job`, any job of the key's project may be served."""

    model_config = examples.shown(client="laptop-7f3a", job=examples.JOB, width=8)

    client: str = Field(
        min_length=1, max_length=200, pattern=WITHOUT_NUL, description="A name that no other client uses now, a random one for instance"
    )
    job: str | None = Field(default=None, max_length=256, pattern=WITHOUT_NUL, description="`cjob-…`: work of this job alone")
    width: int = Field(default=8, ge=1, le=1000, description="How many rollouts the client runs at once")


class HeldIn(Body):
    """An item that the client holds."""

    model_config = examples.shown(id=examples.WORK_ITEM, fence=1)

    id: ItemId
    fence: int = Field(ge=1, lt=2**53, description="As the claim said")


class BeatIn(HeldIn):
    model_config = examples.shown(id=examples.WORK_ITEM, fence=1, done=1)

    done: int | None = Field(default=None, ge=0, lt=2**40, description="How many examples of the item are done")


Code = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9_]+$", description="`timeout`, `unavailable`, …")]


class ItemErrorIn(Body):
    """Why a client cannot end an item."""

    code: Code
    message: Message = ""


class ReleaseIn(HeldIn):
    model_config = examples.shown(id=examples.WORK_ITEM, fence=1)

    error: ItemErrorIn | None = Field(
        default=None,
        description="The item cannot be ended: an attempt is spent, and with the last one the job fails with this error",
    )


class UndecidedIn(Body):
    """An example that could not be run: no fact about the program, only about this job."""

    row: RowIn
    code: Code
    message: Message = ""


class PublishIn(HeldIn):
    model_config = examples.shown(
        id=examples.WORK_ITEM, fence=1, undecided=[{"row": 2, "code": "timeout", "message": "The program took longer than 60 s."}]
    )

    undecided: list[UndecidedIn] = Field(default_factory=list, max_length=MOST_AT_ONCE + 12)


class ClaimedExample(Reply):
    """`rollouts`: those that may be made, each with its number `n`, its seed, and the trace and score that are stored already."""

    row: int
    inputs: dict[str, Any]
    labels: dict[str, Any]
    rollouts: list[dict[str, Any]]


class ClaimedProgram(Reply):
    """What runs in some rollouts: predictors with their demos, and of each LM the gateway's name, options and features."""

    rollouts: list[int]
    program: dict[str, Any]
    prompt_adapter: dict[str, Any]
    lms: dict[str, dict[str, Any]]


class WorkItemRead(Reply):
    """A slice of a job, held until its lease ends; a beat renews it."""

    id: str
    object: Literal["work_item"] = "work_item"
    fence: int
    job: str
    step: str
    role: str
    attempt: int
    width: int
    lease_seconds: float
    beat_seconds: float
    min_score: float
    stop_on_pass: bool = Field(description="Whether an example is over with its first rollout that passes")
    metric: dict[str, Any]
    programs: list[ClaimedProgram]
    examples: list[ClaimedExample]


class Claimed(Reply):
    """`item` is null when nothing may be claimed now: look at the job, whose `queue` and `status` say what it waits for."""

    object: Literal["claim"] = "claim"
    item: WorkItemRead | None


class BeatRead(Reply):
    """Stop and release the item when `cancel` or `pause` is true."""

    id: str
    object: Literal["work_item.beat"] = "work_item.beat"
    cancel: bool
    pause: bool


class WorkItemEnded(Reply):
    id: str
    object: Literal["work_item"] = "work_item"
    status: Literal["succeeded", "failed", "queued"] = Field(description="`failed`: the first examples stopped the job; its error says why")


class TokensIn(Body):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0


class LmUsageIn(TokensIn):
    calls: Count = 0


class CallIn(Body):
    """One call of one predictor, in the order of the calls. `lm` is the name that the claim gave it."""

    predictor: str | None = Field(max_length=200)
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    raw: str | None = Field(default=None, description="The LM's answer as it came")
    overrides: list[str] = Field(default_factory=list, max_length=100, description="What made the prompt another than the predictor's own")
    lm: str | None = Field(default=None, max_length=300)
    usage: TokensIn = TokensIn()
    seconds: Seconds = 0.0
    reasoning: str | None = None
    tool_calls: list[Any] | None = None
    discarded: bool = False
    logprob: Annotated[float, Field(le=0)] | None = Field(default=None, description="Of the whole answer, where the LM host gave it")


class UsageIn(LmUsageIn):
    """Of the whole rollout; `lms` by the names that the claim gave them."""

    lms: dict[str, LmUsageIn] = Field(default_factory=dict, max_length=100)


class TraceError(Body):
    type: str = Field(max_length=200)
    message: Message = ""
    traceback: str = Field(default="", max_length=20_000)


class TraceIn(Body):
    """One rollout. `ok` has `outputs`; `failed` (the program's own exception) and `unparsable` have an `error`."""

    model_config = ruled(
        Body.model_config,
        if_ok(needs("outputs", "object", error=NULL), needs("error", "object", outputs=NULL), absent_is_ok=False),
    )

    role: RoleIn
    row: RowIn
    rollout: RolloutIn = 0
    status: Literal["ok", "failed", "unparsable"]
    outputs: dict[str, Any] | None = None
    calls: list[CallIn] = Field(default_factory=list, max_length=1000)
    error: TraceError | None = None
    usage: UsageIn = UsageIn()
    foreign_calls: Count = 0
    seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _is_a_fact(self) -> TraceIn:
        if (self.status == "ok") != (self.outputs is not None):
            raise PydanticCustomError("trace", "`outputs` belong to a rollout that is `ok`, and to no other")
        if (self.status == "ok") != (self.error is None):
            raise PydanticCustomError("trace", "`error` belongs to a rollout that is not `ok`")
        return self


class TracesIn(Body):
    """`source`: `client` for rollouts that were made for this job, `import` for older ones, which nothing was paid for here."""

    model_config = examples.shown(
        traces=[
            {
                "role": "teacher:0",
                "row": 1,
                "status": "ok",
                "outputs": {"team": "billing"},
                "calls": [
                    {
                        "predictor": "self",
                        "inputs": examples.INPUTS,
                        "outputs": {"team": "billing"},
                        "lm": examples.TEACHER_MODEL,
                        "usage": {"prompt_tokens": 210, "completion_tokens": 12},
                    }
                ],
                "usage": {"calls": 1, "prompt_tokens": 210, "completion_tokens": 12},
                "seconds": 0.8,
            }
        ]
    )

    traces: list[TraceIn] = Field(min_length=1, max_length=MOST_AT_ONCE)
    source: Literal["client", "import"] = "client"


class ScoreIn(Body):
    """What the metric said of one trace. `inconclusive` neither passes nor counts; `failed` is the metric's own error."""

    model_config = ruled(Body.model_config, if_ok(needs("value", "number"), {"properties": {"value": NULL}}, absent_is_ok=True))

    role: RoleIn
    row: RowIn
    rollout: RolloutIn = 0
    status: Literal["ok", "inconclusive", "failed"] = "ok"
    value: float | None = Field(default=None, allow_inf_nan=False)
    feedback: str | None = Field(default=None, max_length=20_000)
    error: Message | None = None
    outputs: dict[str, Any] | None = Field(
        default=None, description="What was judged. A score of other outputs than the stored trace's is skipped; without it, none is"
    )

    @model_validator(mode="after")
    def _has_a_value(self) -> ScoreIn:
        if (self.status == "ok") != (self.value is not None):
            raise PydanticCustomError("score", "`value` belongs to a score that is `ok`, and to no other")
        return self


class ScoresIn(Body):
    model_config = examples.shown(scores=[{"role": "teacher:0", "row": 1, "value": 1.0, "outputs": {"team": "billing"}}])

    scores: list[ScoreIn] = Field(min_length=1, max_length=MOST_AT_ONCE)


class FactsStored(Reply):
    """How many were sent, and how many of them were not there yet."""

    object: Literal["stored"] = "stored"
    received: int
    new: int


class ScoresStored(FactsStored):
    skipped: int = Field(description="Of another answer than the stored trace's: claim again, and judge that one")
