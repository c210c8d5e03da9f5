"""The submit check: everything about a compile spec that can be known without dspy and without running user code.

It returns the spec with defaults and ids filled in. A fault raises Invalid, NotFound or Unsupported with `code` and `param`; nothing
has been stored then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.catalog import datasets, programs
from distill.catalog.fields import check_summary
from distill.catalog.models import Dataset, Program
from distill.db import Session
from distill.errors import Detail, Invalid, Unsupported
from distill.jobs import budget_checks, bundle_use, prompt_checks
from distill.jobs.incumbents import incumbent
from distill.jobs.lm_checks import LmResolver
from distill.jobs.name_diff import NamePair, pair_names, two_columns
from distill.settings import get_settings
from distill.spec import CompileSpec, TeacherSpec
from distill.spec_part import did_you_mean
from stillhouse_programs.spec import (
    ClientMetric,
    ProgramSpec,
    SpecError,
    check_metric,
    columns,
    dspy_types,
    expand,
    input_names,
    lm_roles,
    metric_fields,
    parse_prompt_adapter,
    predictor_names,
    with_demos,
)

DEFAULT_SAMPLING_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Checked:
    """A spec that may be stored as a job, and the rows it points at."""

    spec: CompileSpec
    program: Program
    trainset: Dataset
    valset: Dataset | None
    python: str
    """The minor version that its bundles need; empty where there are none."""

    def digest(self) -> str:
        """The same for the same work: rows by their content and programs by their digests, whatever ids they have got."""
        teachers = tuple(teacher.model_copy(update={"program_id": ""}) for teacher in self.spec.teachers)
        same = {
            "program_id": "",
            "teacher": teachers or self.spec.teacher,
            "trainset": self.trainset.digest,
            "valset": self.valset.digest if self.valset else None,
        }
        return self.spec.model_copy(update=same).digest()


def check(s: Session, project_id: str, spec: CompileSpec) -> Checked:
    row = programs.get(s, project_id, spec.program_id)
    program = programs.spec_of(row)
    _check_words(spec)
    _check_labels(spec, program)
    _check_text_only(program)
    spec = _with_place(spec, program)
    _check_demos(spec, program, "program")
    spec = _with_defaults(spec, row, program)
    spec = _with_lms(s, project_id, spec, program)
    trainset = _dataset(s, project_id, spec.trainset, program, "trainset", labels_teach=spec.teacher == "labels")
    valset = _dataset(s, project_id, spec.valset, program, "valset") if spec.valset else None
    budget_checks.check(s, spec, spec.budget)
    _check_group(spec, trainset)
    _check_metric(spec, program, trainset, "trainset")
    if valset is not None:
        _check_metric(spec, program, valset, "valset")
    found = {
        "trainset": trainset.id,
        "valset": valset.id if valset else None,
        "incumbent_artifact": incumbent(s, project_id, spec, program),
    }
    spec = spec.model_copy(update=found)
    # Held until the job is there, so that no bundle of it goes meanwhile.
    return Checked(spec, row, trainset, valset, bundle_use.hold(s, project_id, spec))


def _check_words(spec: CompileSpec) -> None:
    if spec.valset and spec.holdout:
        raise Invalid("holdout: give `valset` or `holdout`, not both", code="valset_and_holdout", param="holdout")
    if len(set(spec.evaluate.roles)) != len(spec.evaluate.roles):
        raise Invalid("evaluate.roles: a role stands twice", code="duplicate_role", param="evaluate.roles")
    most = get_settings().limits.max_num_threads
    if spec.num_threads > most:
        raise Invalid(f"num_threads: at most {most} on this server", code="too_many_threads", param="num_threads")


def _with_place(spec: CompileSpec, program: ProgramSpec) -> CompileSpec:
    """Who runs the program: its client where it, or the metric, is its own. Raises Invalid where this server could not."""
    own = "program" if program.client is not None else "metric" if isinstance(spec.metric, ClientMetric) else None
    if own is not None and spec.rollouts.where == "server":
        message = f"rollouts.where: the {own} is its caller's own and does not run on this server; leave the word out, or say `client`"
        raise Invalid(message, code="runs_at_the_client", param="rollouts.where")
    where = spec.rollouts.where or ("client" if own else "server")
    return spec.model_copy(update={"rollouts": spec.rollouts.model_copy(update={"where": where})})


def _check_labels(spec: CompileSpec, program: ProgramSpec) -> None:
    """What goes with `teacher: "labels"`."""
    if spec.teacher != "labels":
        return
    if program.code is not None:
        message = "teacher: only a program spec says which label is the answer to which call; code is asked through a teacher LM"
        raise Unsupported(message, code="labels_need_a_spec", param="teacher")
    if spec.rollouts.n > 1:
        message = "rollouts.n: a row has one set of labels, so there is nothing to sample where the labels teach"
        raise Invalid(message, code="labels_sampled", param="rollouts.n")
    if spec.render == "teacher":
        message = "render: labels have no prompts of their own; rows are rendered as the student is asked"
        raise Invalid(message, code="labels_have_no_prompts", param="render")


def _check_demos(spec: CompileSpec, program: ProgramSpec, param: str) -> None:
    """Demos that are kept are complete; else every training row of the predictor would be rejected, after the teacher was paid for."""
    try:
        with_demos(expand(program), spec.demos)
    except SpecError as error:
        raise Invalid(f"demos: {param}.{error.message}", code="incomplete_demo", param="demos") from None


def _check_text_only(program: ProgramSpec) -> None:
    """Every predictor is trained, and what is trained here reads text: rows with images would all be rejected after the teacher ran."""
    for number, predictor in enumerate(program.predictors):
        for at, field in enumerate(predictor.signature.fields):
            if "Image" in dspy_types(field.json_schema):
                message = (
                    f"program: predictor {predictor.name} is shown an image (`{field.name}`), and no base model here is trained on images"
                )
                place = f"program.predictors[{number}].signature.fields[{at}]"
                raise Unsupported(message, code="images_not_trainable", param=place)


def _with_defaults(spec: CompileSpec, row: Program, program: ProgramSpec) -> CompileSpec:
    rollouts = spec.rollouts
    if rollouts.n > 1 and rollouts.temperature is None:
        rollouts = rollouts.model_copy(update={"temperature": DEFAULT_SAMPLING_TEMPERATURE})
    if rollouts.n > 1 and rollouts.temperature == 0:
        message = "rollouts.temperature: at 0 all samples of an example are the same; use n = 1, or a temperature above 0"
        raise Invalid(message, code="samples_all_equal", param="rollouts.temperature")
    return spec.model_copy(
        update={
            "program_digest": row.digest,
            "program_name": spec.program_name or row.name or f"program-{row.digest[3:9]}",
            "prompt_adapter": spec.prompt_adapter or program.prompt_adapter or parse_prompt_adapter(None),
            "rollouts": rollouts,
            "teacher": spec.teacher or (TeacherSpec(),),
        }
    )


def _with_lms(s: Session, project_id: str, spec: CompileSpec, program: ProgramSpec) -> CompileSpec:
    resolver = LmResolver(s, project_id, spec)
    roles = lm_roles(program)
    lms = {role: resolver.student(role) for role in _known_roles(roles, spec.lms, "lms")}
    spec = prompt_checks.with_prompts(spec.model_copy(update={"lms": lms}))
    if spec.teacher == "labels":
        return spec
    teachers = tuple(_teacher(s, project_id, resolver, spec, program, number) for number in range(len(spec.teachers)))
    return spec.model_copy(update={"teacher": teachers})


def _teacher(s: Session, project_id: str, resolver: LmResolver, spec: CompileSpec, student: ProgramSpec, number: int) -> TeacherSpec:
    teacher, param = spec.teachers[number], f"teacher[{number}]"
    if spec.rollouts.stored_only and teacher.lms and all(lm.connection_id for lm in teacher.lms.values()):
        return teacher  # as it was when its traces were made; it is not called
    program, program_id, digest = student, spec.program_id, spec.program_digest
    if teacher.program_id and teacher.program_id != spec.program_id:
        row = programs.get(s, project_id, teacher.program_id)
        program, program_id, digest = programs.spec_of(row), row.id, row.digest
        _check_same("predictors", predictor_names(student), predictor_names(program), f"{param}.program")
        _check_same("inputs", input_names(student), input_names(program), f"{param}.program")
        if spec.render == "teacher":
            _check_demos(spec, program, f"{param}.program")
    roles = _known_roles(lm_roles(program), teacher.lms, f"{param}.lms")
    lms = {role: resolver.teacher(teacher, role, f"{param}.lms.{role}") for role in roles}
    return TeacherSpec(program_id=program_id, program_digest=digest, lms=lms)


def _known_roles(roles: list[str], given: object, param: str) -> list[str]:
    for name in given if isinstance(given, dict) else ():
        if name not in roles:
            known = ", ".join(roles)
            raise Invalid(f"{param}.{name}: no predictor uses an LM `{name}` (there are: {known}){did_you_mean(name, roles)}",
                          code="unknown_lm", param=f"{param}.{name}")  # fmt: skip
    return roles


def _check_same(what: str, ours: list[str], theirs: list[str], param: str) -> None:
    if set(ours) == set(theirs):
        return
    pairs = pair_names(ours, theirs)
    table = "\n".join(two_columns([("student", "teacher"), *((mine or "-", other or "-") for mine, other in pairs)]))
    message = f"{param}: teacher and student need {what} of the same names\n{table}"
    raise Invalid(message, code=f"{what}_differ", param=param, details=tuple(_differences(pairs)))


def _differences(pairs: list[NamePair]) -> Iterator[Detail]:
    for mine, other in pairs:
        if mine is None or other is None:
            yield Detail("only the teacher has it" if mine is None else "only the student has it", None, mine or other)
        elif mine != other:
            yield Detail(f"the teacher has `{other}`", None, mine)


def _dataset(s: Session, project_id: str, reference: str, program: ProgramSpec, param: str, *, labels_teach: bool = False) -> Dataset:
    row = datasets.hold(s, project_id, reference, param)
    check_summary(program, row, param, labels_teach=labels_teach)
    return row


def _check_group(spec: CompileSpec, trainset: Dataset) -> None:
    """The field by which rows are grouped is in the rows; it need not be a field of the program."""
    field, known = spec.filter.group_by, [entry["name"] for entry in trainset.fields]
    if field is not None and field not in known:
        message = f"filter.group_by: the rows have no field `{field}`{did_you_mean(field, known)}"
        raise Invalid(message, code="unknown_field", param="filter.group_by")


def _check_metric(spec: CompileSpec, program: ProgramSpec, dataset: Dataset, param: str) -> None:
    """The metric's outputs exist, and the rows have labels for them."""
    try:
        check_metric(spec.metric.model_dump(mode="json"), program)
    except SpecError as error:
        raise Invalid(error.message, code="invalid_metric", param=error.param) from None
    known = [entry["name"] for entry in dataset.fields]
    labels = _labels(program, known)
    wanted = metric_fields(spec.metric)
    if wanted is None and not any(name in known for name in labels):
        message = f"{param}: metric {spec.metric.type} needs a label: one of {', '.join(labels) or 'the outputs'} in the rows"
        raise Invalid(message, code="missing_labels", param=param)
    for name in wanted or []:
        if name not in known:
            message = f"{param}: metric {spec.metric.type} needs the label `{name}` in the rows{did_you_mean(name, known)}"
            raise Invalid(message, code="missing_labels", param=param)


def _labels(program: ProgramSpec, known: list[str]) -> list[str]:
    """The columns that can be labels: the outputs, or, where the program is code, whatever is no input."""
    if program.code is not None:
        return [name for name in known if name not in input_names(program)]
    return [name for name, column in columns(program).items() if column.role == "label"]
