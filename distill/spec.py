"""The compile spec, frozen input of a job, and every digest of the system.

Digests are `v1:` + SHA-256 over compact JSON: our own objects in the field order of their models, users' values in their own key
order (order is part of a prompt, so JSON with sorted keys would call two prompts one).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from distill.spec_faults import first_fault
from distill.spec_part import Positive, PositiveFloat, SpecPart
from distill.spec_training import TrainOptions
from stillhouse_programs.spec import (
    ExactMatch,
    MetricSpec,
    ProgramSpec,
    PromptAdapterSpec,
    canonical_json,
    expand,
    parse_metric,
    parse_prompt_adapter,
)

Temperature = Annotated[float, Field(ge=0, le=2)]  # as far as OpenAI's API and the LM host go
Finite = Annotated[float, Field(allow_inf_nan=False)]
LmName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
PublicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
PromptAdapter = Annotated[PromptAdapterSpec, BeforeValidator(lambda value: parse_prompt_adapter(value))]
Metric = Annotated[MetricSpec, BeforeValidator(lambda value: parse_metric(value) if isinstance(value, str | dict) else value)]
NativeFeature = Literal["tools", "reasoning"]
TUNED_PREFIX = "sh-"  # what the ids of fine-tuned models begin with
Render = Literal["student", "teacher"]
Rows = Literal["own", "all"]
Prompt = Literal["compact", "full", "auto"]
Role = Literal["baseline", "baseline_constrained", "teacher", "compiled"]
ALIAS_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[a-z0-9][a-z0-9._-]{0,62}$"
"""`program_name@alias`."""
AliasName = Annotated[str, Field(pattern=ALIAS_NAME)]


class GenerationOptions(SpecPart):
    """What is sent with each LM call, beside the messages; absent ones are the LM host's own."""

    temperature: Temperature | None = None
    max_tokens: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    def options(self) -> dict[str, Any]:
        """The options that are set, sorted by name."""
        return {name: value for name in sorted(GenerationOptions.model_fields) if (value := getattr(self, name)) is not None}


class LmSpec(GenerationOptions):
    """One entry of `lms{}`. The submit check fills in what is not given, `connection_id` and what follows it always."""

    connection: str = ""
    model: str = ""
    base_model: str = ""
    trainer: str = ""
    train_options: TrainOptions | None = None
    prompt_adapter: PromptAdapter | None = None
    prompt: Prompt | None = Field(default=None, exclude_if=lambda given: given is None)
    """Which prompts the model is tuned on; the job's where it is None. The submit check puts `compact` or `full` in place of `auto`."""
    constrain: bool = False
    native: tuple[NativeFeature, ...] = ()
    """What goes beside the text of a message: tools and tool calls, or reasoning. The connection must support it."""
    connection_id: str = ""
    connection_revision: int = 0
    fine_tuned: bool = Field(default=False, exclude_if=lambda given: not given)
    """The model `ft:…` is the project's own, not one of a provider. Left out where false: digests stay, earlier releases read the spec."""

    @property
    def starts_from(self) -> str | None:
        """The fine-tuned model with whose LoRA weights a training of this LM begins; None where it begins with new ones."""
        return self.model if self.fine_tuned or self.model.startswith(TUNED_PREFIX) else None


class TeacherSpec(SpecPart):
    """A program whose behaviour is recorded; without `program_id` it is the student's own program with other LMs."""

    program_id: str = ""
    program_digest: str = ""
    lms: dict[LmName, LmSpec] = Field(default_factory=dict)


class Holdout(SpecPart):
    """Rows of the trainset kept for evaluation. With neither word: 20 %, and none under 100 rows.

    With a fraction, a row that is held out stays so while the trainset grows; with `n`, rows that are added may take its place.
    """

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    n: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Holdout:
        if self.fraction is not None and self.n is not None:
            raise PydanticCustomError("holdout", "give `fraction` or `n`, not both")
        return self


class Filter(SpecPart):
    """Which rows are trained on. `group_by` names a field of the rows (a conversation, a customer): rows of equal value there stay on one
    side of every split."""

    min_score: Finite = 1.0
    max_rows: Positive | None = None
    dedup: bool = True
    top_k: Positive | None = None
    group_by: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class Rollouts(SpecPart):
    """Up to `n` samples an example; `temperature` is that of the samples after the first.

    With `stored_only` no teacher is called, for training or in the evaluation: what is not in the trace store is left out. With
    `retry_failed` a stored rollout in which the program itself failed is run again, once in a job and for every role, for later jobs too;
    so is a metric that failed on a stored answer. `where` says who runs the program, in the evaluation too: this server, or a client.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["stored_only"], "properties": {"stored_only": {"const": True}}},
            "then": {"properties": {"retry_failed": {"const": False}}},
        }
    )

    n: Annotated[int, Field(ge=1, le=64)] = 1
    temperature: Temperature | None = None
    stop_on_pass: bool = True
    stored_only: bool = False
    retry_failed: bool = False
    where: Literal["server", "client"] | None = None
    """Filled in at submit: the client where the program or the metric is its own, else the server."""

    @model_validator(mode="after")
    def _may_ask(self) -> Rollouts:
        if self.stored_only and self.retry_failed:
            raise PydanticCustomError("rollouts", "`stored_only` runs nothing, so `retry_failed` cannot go with it")
        return self

    @property
    def by_client(self) -> bool:
        return self.where == "client"


class SmokeTest(SpecPart):
    """Of the teacher's first `n` examples at least `min_pass` must pass, or the job stops. A trainset no longer than that is simply run."""

    n: Annotated[int, Field(ge=1, le=500)] = 10
    min_pass: Positive = 1

    @model_validator(mode="after")
    def _can_be_passed(self) -> SmokeTest:
        if self.min_pass > self.n:
            raise PydanticCustomError("smoke_test", "`min_pass` is more than `n`: no teacher could pass")
        return self


class Evaluate(SpecPart):
    """Who runs the held-out rows; `incumbent` (`program_name@alias`) names what the compiled program is to beat."""

    roles: tuple[Role, ...] = ("baseline", "teacher", "compiled")
    incumbent: AliasName | None = None


LAST_SECOND = 253402300799
"""Of the year 9999, as Unix time."""


class Budget(SpecPart):
    """How far a job may go before it is paused: LM calls, tokens of prompts and answers, US dollars for LM calls, and a time."""

    max_calls: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    max_cost_usd: PositiveFloat | None = None
    deadline: Annotated[int, Field(ge=0, le=LAST_SECOND, description="Unix seconds")] | None = None


class CompileSpec(SpecPart):
    """What a job is to do. `jobs.service.submit` stores it with every default and resolved id filled in."""

    program_id: str
    program_digest: str = ""
    lms: dict[LmName, LmSpec] = Field(default_factory=dict)
    teacher: tuple[TeacherSpec, ...] | Literal["labels"] = ()
    trainset: str
    valset: str | None = None
    holdout: Holdout | None = None
    metric: Metric = ExactMatch()
    filter: Filter = Filter()
    rollouts: Rollouts = Rollouts()
    smoke_test: SmokeTest | None = SmokeTest()
    multitask: bool = True
    demos: Literal["keep", "drop", "auto"] = "auto"
    prompt_adapter: PromptAdapter | None = None
    prompt: Prompt | None = Field(default=None, exclude_if=lambda given: given is None)
    train_options: TrainOptions = TrainOptions()
    num_threads: Annotated[int, Field(ge=1, le=1000)] = 8
    render: Render = "student"
    """Whose signature, instructions, demos and prompt adapter a row is rendered with: those that the student is asked with, or the
    teacher's, as `dspy.BootstrapFinetune` does."""
    rows: Rows = "own"
    """Which rows a key is trained on: those of its own predictors, or those of all predictors, as `dspy.BootstrapFinetune` does."""
    evaluate: Evaluate = Evaluate()
    budget: Budget = Budget()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    suffix: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,18}$")] | None = None
    program_name: PublicName | None = None
    incumbent_artifact: str | None = None
    """What `evaluate.incumbent` pointed at when the job was submitted; None where it points at nothing yet."""
    name: Annotated[str, Field(max_length=128)] | None = None
    auto_start: bool = True
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """The teacher programs; none when the labels teach."""
        return () if self.teacher == "labels" else self.teacher

    @property
    def connection_ids(self) -> set[str]:
        """Of the LMs that are asked or trained."""
        every = [self.lms, *(teacher.lms for teacher in self.teachers)]
        return {lm.connection_id for lms in every for lm in lms.values()}

    def digest(self) -> str:
        """Over what decides the result: not the name, the metadata, nor how fast, when or where it runs, nor how far without asking, nor
        what it is to beat, which changes nothing of what is trained."""
        free: dict[str, Any] = {"name": None, "metadata": {}, "auto_start": True, "num_threads": 1, "incumbent_artifact": None}
        same = self.model_copy(update=free)
        unasked = set() if self.rollouts.retry_failed else {"retry_failed"}
        return digest(same.model_dump(mode="json", by_alias=True, exclude={"budget": True, "rollouts": {"where", *unasked}}))

    def to_json(self) -> str:
        """Compact JSON for the `jobs.spec` column; `CompileSpec.model_validate_json` reads it.

        Only jobs of clients say where they run, and only those that retry say so: workers of a release before them read all others.
        """
        said = {"where": self.rollouts.by_client, "retry_failed": self.rollouts.retry_failed}
        left_out = {name for name, is_said in said.items() if not is_said}
        return compact(self.model_dump(mode="json", by_alias=True, exclude={"rollouts": left_out}))


def read_spec(raw: Mapping[str, Any]) -> CompileSpec:
    """A CompileSpec from plain values. Raises Invalid, whose `param` is the JSON path of the first fault."""
    try:
        return CompileSpec.model_validate(raw)
    except ValidationError as error:
        raise first_fault(error.errors(include_url=False, include_input=False)[0]) from None


# ------------------------------------------------------------------ digests


def compact(value: Any) -> str:
    """Compact JSON text: models in field order under their wire names, everything else as it is. Raises ValueError on NaN."""
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_model_of)


def _model_of(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"no JSON for {type(value).__name__}")


def digest(value: Any) -> str:
    """`v1:` + 64 hex digits of the compact JSON."""
    return "v1:" + sha256(compact(value).encode("utf-8", "surrogatepass")).hexdigest()


def program_digest(spec: ProgramSpec) -> str:
    return "v1:" + sha256(canonical_json(spec).encode("utf-8", "surrogatepass")).hexdigest()


def calls_of_a_rollout(program: ProgramSpec) -> int | None:
    """How many LM calls one rollout makes, one after the other; None for code, of which nobody knows."""
    return None if program.code is not None else len(expand(program).steps or ())


def lm_digest(lm: LmSpec) -> str:
    """What an answer depends on: connection and its revision, model, sorted generation options, constrain, native features."""
    return digest([lm.connection_id, lm.connection_revision, lm.model, lm.options(), lm.constrain, *_native(lm)])


def _native(lm: LmSpec) -> list[list[str]]:
    """No part of a digest where there are none."""
    return [sorted(lm.native)] if lm.native else []


def lms_digest(lm_of_predictor: Mapping[str, LmSpec]) -> str:
    """Of `{predictor: lm}`, in the order of the predictors' names, so that the order of asking is no part of it."""
    return digest({name: lm_digest(lm_of_predictor[name]) for name in sorted(lm_of_predictor)})


def lm_key(lm: LmSpec) -> str:
    """Of all that is trained: everything but the name and the generation options. Equal keys are one fine-tune job."""
    start = [lm.starts_from] if lm.starts_from else []
    return digest([lm.connection_id, lm.base_model, lm.trainer, lm.train_options, lm.prompt_adapter, *_native(lm), *start])


def inputs_digest(inputs: Mapping[str, Any]) -> str:
    return digest(inputs)


def example_digest(row: Mapping[str, Any]) -> str:
    """Of a whole row, labels too."""
    return digest(row)


def metric_digest(metric: MetricSpec) -> str:
    return digest(metric)


def trace_digest(program: str, lms: str, inputs: str, rollout: int, prompt_adapter: PromptAdapterSpec, prompt_hash: str) -> str:
    """`program`, `lms` and `inputs` are digests. The dspy version is not part of it: the prompt hash says whether prompts changed."""
    return digest([program, lms, inputs, rollout, prompt_adapter, prompt_hash])


def retry_digest(trace: str, job_id: str) -> str:
    """Of the trace that a job makes where that of an earlier one had failed. One a job, so a job that begins again finds its own."""
    return digest(["retry", trace, job_id])


def sampling_seed(program: str, lm_of_predictor: Mapping[str, LmSpec], inputs: str, rollout: int, prompt_adapter: PromptAdapterSpec) -> int:
    """31 bits of all that is asked. The id of a connection, which each server draws for itself, and its revision are no part of it, so that
    the same job asks for the same samples on every server."""
    asked = {name: [lm.model, lm.options(), lm.constrain, *_native(lm)] for name, lm in sorted(lm_of_predictor.items())}
    return int(digest([program, asked, inputs, rollout, prompt_adapter]).removeprefix("v1:")[:8], 16) >> 1


def training_digest(
    *, trainer: str, base: str, rows: str, validation_rows: str | None, options: Mapping[str, Any], seed: int, schema_version: int
) -> str:
    """Of all that decides a training: equal digests would make equal weights. `base`, `rows`, `validation_rows` are digests of content."""
    return digest([trainer, schema_version, base, rows, validation_rows, dict(sorted(options.items())), seed])


def label_trace_digest(program: str, example: str) -> str:
    """Of the trace that a row's labels make of a program; both are digests. No LM and no prompt has a part in it."""
    return digest(["labels", program, example])
