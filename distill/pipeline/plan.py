"""What validate finds out about a job, kept with it: later steps read this instead of asking again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from distill.pipeline.demos import Trial
from distill.pipeline.holdout import FEW, HoldoutRule, Split, split
from distill.pipeline.keys import SHARED, Key, Predictor, fine_tune_keys
from distill.pipeline.roles import INCUMBENT, Cast
from distill.spec import CompileSpec, LmSpec, digest, inputs_digest, lm_key
from distill.spec_training import TrainOptions
from stillhouse_programs.spec import ProgramSpec, input_names

Source = Literal["valset", "trainset"]


class Plan(BaseModel):
    """`prompt_hashes` maps `Cast.prompts` to the hash of the prompts on `samples`. `split` is the digest of the blob with the sides.

    `state_without_demos` is there where demos are tried, and `trial` once they have been.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: list[dict[str, Any]]
    prompt_hashes: dict[str, str]
    program_state: dict[str, Any]
    dspy_version: str
    split: str
    train_examples: int
    holdout_examples: int
    holdout_from: Source | None = None
    state_without_demos: dict[str, Any] | None = None
    trial: Trial | None = None

    def prompt_hash(self, cast: Cast) -> str:
        return self.prompt_hashes[cast.prompts]


def inputs_of(program: ProgramSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs in a row, in the order the program asks for them."""
    return {name: row[name] for name in input_names(program) if name in row}


def labels_of(program: ProgramSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in a row that is no input."""
    inputs = set(input_names(program))
    return {name: value for name, value in row.items() if name not in inputs}


def row_inputs(student: ProgramSpec, row: Mapping[str, Any]) -> str:
    """The digest of a row's inputs."""
    return inputs_digest(inputs_of(student, row))


class RowDigests(NamedTuple):
    """Of a row's inputs, and of what stays on one side of every split."""

    inputs: str
    group: str


def digests_of(spec: CompileSpec, student: ProgramSpec, row: Mapping[str, Any]) -> RowDigests:
    """A group are rows with equal inputs, or with `filter.group_by` rows of equal value there.

    A row without a value (null, or no such field) is a group by its inputs.
    """
    inputs, field = row_inputs(student, row), spec.filter.group_by
    return RowDigests(inputs, inputs if field is None or row.get(field) is None else digest([field, row[field]]))


def divide(spec: CompileSpec, groups: Sequence[str], valset_rows: int | None) -> tuple[Split, Source | None]:
    """The trainset's rows by side, and where the holdout comes from; with a valset the whole trainset is trained on."""
    if valset_rows is not None:
        return Split(tuple(range(len(groups))), ()), "valset" if valset_rows else None
    rule = HoldoutRule(spec.holdout.fraction, spec.holdout.n) if spec.holdout else HoldoutRule()
    sides = split(groups, rule)
    return sides, "trainset" if sides.holdout else None


def warnings(spec: CompileSpec, sides: Split, source: Source | None, overlap: int) -> list[dict[str, str]]:
    """What the user should know before the scores mislead them."""
    found = []
    if source is None:
        rows = len(sides.train)
        text = (
            f"No rows are held out ({rows} rows), so there will be no evaluation and no verdict. Give a `valset`, or ask for a `holdout`."
        )
        found.append({"code": "no_holdout", "message": text})
    elif source == "trainset" and len(sides.holdout) < FEW and (spec.holdout is None or spec.holdout.n is None):
        held, rows = len(sides.holdout), len(sides.train) + len(sides.holdout)
        text = f"{held} of {rows} rows are held out: so few rarely give a verdict. Give a `valset`, or more rows."
        found.append({"code": "few_held_out", "message": text})
    if spec.evaluate.incumbent and not spec.incumbent_artifact:
        text = f"{spec.evaluate.incumbent} points at nothing yet, so there is no incumbent to beat; the baseline takes its place."
        found.append({"code": "no_incumbent", "message": text})
    if overlap:
        text = f"{overlap} rows of the valset have inputs that are in the trainset too: the scores count rows the model was trained on."
        found.append({"code": "valset_overlap", "message": text})
    return found


def warning_of_held_inputs(rows: int) -> list[dict[str, str]]:
    """For `rows` rows that are on neither side: their group is trained on, but held-out rows have their inputs."""
    if not rows:
        return []
    text = f"{rows} rows are left out of training: rows of other groups that are held out have the same inputs."
    return [{"code": "held_inputs_left_out", "message": text}]


def roles_to_evaluate(spec: CompileSpec, source: Source | None) -> list[str]:
    """The roles that run the holdout, in the order of the spec; none without a holdout."""
    if source is None:
        return []
    asked = [role for role in dict.fromkeys(spec.evaluate.roles) if role != "teacher" or spec.teachers]
    return [*asked, INCUMBENT] if spec.incumbent_artifact else [*asked]


def job_keys(spec: CompileSpec, student: ProgramSpec) -> tuple[Key, ...]:
    """What the job trains."""
    predictors = [Predictor(predictor.name, predictor.lm) for predictor in student.predictors]
    return fine_tune_keys(predictors, {name: lm_key(lm) for name, lm in spec.lms.items()}, spec.multitask)


def lms_of_key(spec: CompileSpec, key: Key) -> list[str]:
    """The names in `lms{}` that share a key, in their order."""
    return [name for name, lm in spec.lms.items() if lm_key(lm) == key.lm_key]


def lm_of_key(spec: CompileSpec, key: Key) -> LmSpec:
    return spec.lms[key.lm]


def train_options(spec: CompileSpec, key: Key) -> TrainOptions:
    """How a key is trained: its LM's options, else the job's."""
    return lm_of_key(spec, key).train_options or spec.train_options


def predictors_of_rows(spec: CompileSpec, student: ProgramSpec, key: Key) -> tuple[str, ...]:
    """The predictors whose rows train a key: its own; with `rows: "all"` a key that predictors share takes all of the program's."""
    everyone = spec.rows == "all" and key.predictor == SHARED
    return tuple(predictor.name for predictor in student.predictors) if everyone else key.predictors


@dataclass(frozen=True)
class Measure:
    """By what a row's length is judged: the trainer's tokenizer of a base model, and the most tokens a row may have."""

    trainer: str
    base_model: str
    max_seq_length: int | Literal["auto"]


def measures(spec: CompileSpec, student: ProgramSpec) -> dict[str, tuple[Measure, ...]]:
    """Each predictor's measures: one for each key that trains on its rows, equal ones once."""
    found: dict[str, dict[Measure, None]] = {predictor.name: {} for predictor in student.predictors}
    for key in job_keys(spec, student):
        lm = lm_of_key(spec, key)
        for name in predictors_of_rows(spec, student, key):
            found[name][Measure(lm.trainer, lm.base_model, train_options(spec, key).max_seq_length)] = None
    return {name: tuple(each) for name, each in found.items()}
