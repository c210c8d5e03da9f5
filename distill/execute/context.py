"""A job as a step sees it: its spec, programs, data and plan, read once at the start of an item."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from distill import scrubbing
from distill.catalog import artifacts, bundles, connections, datasets, programs, projects
from distill.catalog.fields import reader_of
from distill.catalog.models import Artifact, Dataset
from distill.catalog.programs import SameCode
from distill.db import Session
from distill.jobs import facts, repository
from distill.jobs.models import Job
from distill.pipeline.holdout import numbered
from distill.pipeline.plan import Plan, RowDigests, digests_of, inputs_of, labels_of
from distill.pipeline.roles import (
    DEMOS_DROPPED,
    DEMOS_KEPT,
    INCUMBENT,
    Cast,
    baseline_cast,
    compiled_cast,
    compiled_program,
    demos_cast,
    rendering_cast,
    teacher_cast,
    teacher_number,
    teacher_rendering_cast,
    tuned_tokens,
)
from distill.spec import CompileSpec, example_digest, inputs_digest
from distill.storage import BlobStore
from stillhouse_programs.spec import ProgramSpec

Side = Literal["train", "holdout"]


@dataclass(frozen=True)
class Example:
    """A row of a dataset. `index` is its row number, 0-based."""

    index: int
    row: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        return example_digest(self.row)


@dataclass(frozen=True)
class JobContext:
    """`models` maps predictors to the fine-tuned models they have so far; `python` is the minor version that its bundles need, if any."""

    job_id: str
    project_id: str
    program_name: str
    spec: CompileSpec
    student: ProgramSpec
    teachers: tuple[ProgramSpec, ...]
    trainset: Dataset
    valset: Dataset | None
    stored_plan: Plan | None
    models: Mapping[str, str]
    python: str = ""
    answer_tokens: Mapping[str, int] = field(default_factory=dict)
    """Of each predictor's fine-tuned model: the bound of its answers where the user sets none."""
    scrub: str | None = None
    """The country of `scrubbing`, where the project has personal data taken out of its traces."""
    incumbent: Cast | None = None
    same_code: Mapping[str, tuple[SameCode, ...]] = field(default_factory=dict)
    """By the digest of a program of the job: the others whose traces count too."""

    @property
    def plan(self) -> Plan:
        """Raises RuntimeError before validate has published."""
        if self.stored_plan is None:
            raise RuntimeError(f"job {self.job_id} has no plan yet")
        return self.stored_plan

    @property
    def program_state(self) -> dict[str, Any]:
        """dspy's state of the compiled program, but for its models."""
        bare = self.plan.state_without_demos
        return bare if bare is not None and self.spec.demos == "drop" else self.plan.program_state

    @property
    def compiled_program(self) -> ProgramSpec:
        return compiled_program(self.spec, self.student)

    def cast(self, role: str) -> Cast:
        """Who runs under a role. Raises KeyError for `compiled` before every predictor has its model, and for an absent incumbent."""
        if role == INCUMBENT:
            if self.incumbent is None:
                raise KeyError(role)
            return self.incumbent
        if role == "compiled":
            return replace(compiled_cast(self.spec, self.student, self.models), answer_tokens=self.answer_tokens)
        if role in ("baseline", "baseline_constrained"):
            cast = baseline_cast(self.spec, self.student, constrained=role == "baseline_constrained")
        elif role in (DEMOS_KEPT, DEMOS_DROPPED):
            cast = demos_cast(role, self.spec, self.student)
        else:
            number = teacher_number(role)
            cast = teacher_cast(number, self.spec, self.teachers[number])
        return cast.untrained(self.spec)

    def rendering_cast(self, role: str) -> Cast:
        """Whose prompts the rows of a teacher's role are rendered with; where labels teach, there are the student's alone."""
        if self.spec.render == "student" or not self.teachers:
            return rendering_cast(self.spec, self.student)
        number = teacher_number(role)
        return teacher_rendering_cast(number, self.spec, self.student, self.teachers[number])

    def taught_by_labels(self, role: str) -> bool:
        """True where the rows' own labels stand for a teacher: nobody is cast for the role."""
        return self.spec.teacher == "labels" and role.startswith("teacher:")

    def scrubbed_trace(self, body: dict[str, Any]) -> dict[str, Any]:
        """A trace as the project stores it."""
        return body if self.scrub is None else scrubbing.scrubbed_trace(body, self.scrub)

    def scrubbed(self, value: Any) -> Any:
        """Likewise what else is stored of a rollout."""
        return value if self.scrub is None else scrubbing.scrubbed(value, self.scrub)

    def bundles_beside(self, program: ProgramSpec) -> frozenset[str]:
        """What a runner of one of the job's programs holds: its bundle and the metric's, by digest."""
        return frozenset(digest for digest in map(bundles.bundle_of, (program, self.spec.metric)) if digest)

    def side_of(self, role: str) -> Side:
        return "train" if ":" in role else "holdout"

    def examples(self, store: BlobStore, side: Side, start: int, stop: int) -> list[Example]:
        """Examples `start` (0-based) up to, not including, `stop` of a side."""
        if side == "holdout" and self.plan.holdout_from == "valset":
            assert self.valset is not None  # noqa: S101 - for the type checker; the plan says so
            return [Example(start + i, row) for i, row in enumerate(self.rows(store, self.valset, start, stop))]
        split = read_split(store, self.plan.split)  # type: ignore[arg-type]  # a store is hashable: it is itself
        return list(self._picked(store, split[side][start:stop]))

    def examples_at(self, store: BlobStore, places: Sequence[int]) -> list[Example]:
        """The examples at some ascending places (0-based) among those that are trained on."""
        numbers = read_split(store, self.plan.split)["train"]  # type: ignore[arg-type]  # a store is hashable: it is itself
        return list(self._picked(store, [numbers[place] for place in places]))

    def rows(self, store: BlobStore, dataset: Dataset, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows of the trainset or valset as the student takes them: the cells of a CSV have the types of its fields."""
        return map(reader_of(self.student, dataset), datasets.rows(store, dataset, start, stop))

    def _picked(self, store: BlobStore, numbers: Sequence[int]) -> Iterator[Example]:
        if not numbers:
            return
        for number, row in numbered(self.rows(store, self.trainset, numbers[0], numbers[-1] + 1), numbers, numbers[0]):
            yield Example(number, row)

    def digests(self, row: Mapping[str, Any]) -> RowDigests:
        return digests_of(self.spec, self.student, row)


@dataclass(frozen=True)
class CastInputs:
    """An example as a program takes it."""

    inputs: dict[str, Any]
    labels: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        return inputs_digest(self.inputs)


def as_inputs(program: ProgramSpec, example: Example) -> CastInputs:
    return CastInputs(inputs_of(program, example.row), labels_of(program, example.row))


@lru_cache(maxsize=8)
def read_split(store: BlobStore, digest: str) -> dict[str, "array[int]"]:
    """`{"train": [row numbers], "holdout": [row numbers]}`, ascending. As arrays: every worker holds those of its last few jobs."""
    sides: dict[str, list[int]] = json.loads(store.read(digest))
    return {side: array("Q", numbers) for side, numbers in sides.items()}


def load(s: Session, job_id: str) -> JobContext:
    """Read a job. Raises NotFound."""
    job = _load(s, job_id)
    if job.spec.incumbent_artifact is None:
        return job
    artifact = artifacts.by_id(s, job.spec.incumbent_artifact)
    theirs = _load(s, artifact.job_id)
    beaten = replace(theirs.cast("compiled"), answer_tokens=theirs.answer_tokens or _packaged_tokens(artifact))
    revisions = {lm.connection_id: connections.by_id(s, lm.connection_id).revision for lm in beaten.lms.values()}
    return replace(job, python=job.python or theirs.python, incumbent=beaten.as_incumbent(revisions))


def _load(s: Session, job_id: str) -> JobContext:
    job = repository.by_id(s, job_id)
    spec = repository.spec_of(job)
    student = programs.load(s, spec.program_id)
    models = {name: row.model_id for row in repository.fine_tune_jobs(s, job_id) if row.model_id is not None for name in row.predictors}
    plan = Plan.model_validate(job.plan) if job.plan else None
    teachers = tuple(programs.load(s, teacher.program_id) if teacher.program_id else student for teacher in spec.teachers)
    program_ids = {spec.program_id, *(teacher.program_id or spec.program_id for teacher in spec.teachers)}
    dropped = plan is not None and plan.trial is not None and plan.trial.taken == "drop"
    return JobContext(
        job_id=job.id,
        project_id=job.project_id,
        program_name=job.program_name,
        spec=spec.model_copy(update={"demos": "drop"}) if dropped else spec,
        student=student,
        teachers=teachers,
        trainset=datasets.by_id(s, spec.trainset),
        valset=datasets.by_id(s, spec.valset) if spec.valset else None,
        stored_plan=plan,
        models=models,
        answer_tokens=_answer_tokens(s, job) if models else {},
        python=bundles.python_as_known(s, job.project_id, map(bundles.bundle_of, (student, *teachers, spec.metric))),
        scrub=projects.get(s, job.project_id).scrub,
        same_code=programs.same_code(s, program_ids),
    )


def _packaged_tokens(artifact: Artifact) -> dict[str, int]:
    """The bounds that an artifact was packaged with: they outlive the details of its job."""
    entries = json.loads(artifact.manifest).get("predictors", {})
    return {name: entry["answer_tokens"] for name, entry in entries.items() if entry.get("answer_tokens") is not None}


def _answer_tokens(s: Session, job: Job) -> dict[str, int]:
    """By predictor; none of a job whose training files were made before completions were measured."""
    found: dict[str, int] = {}
    for key in (facts.coverage(s, job) or {"keys": []})["keys"]:
        if (longest := key["tokens"].get("completion_max")) is not None:
            found.update(dict.fromkeys(key["predictors"], tuned_tokens(longest)))
    return found
