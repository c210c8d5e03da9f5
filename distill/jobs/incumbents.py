"""The incumbent of a job: the artifact that an alias names when the job is submitted, to be run on the same held-out rows."""

from __future__ import annotations

import json

from distill.catalog import aliases, artifacts, fine_tuned, programs
from distill.catalog.models import Artifact
from distill.db import Session
from distill.errors import Invalid, NotFound
from distill.jobs import repository
from distill.spec import CompileSpec
from distill.spec_part import did_you_mean
from stillhouse_programs.spec import ProgramSpec, SpecError, check_metric, input_names

PARAM = "evaluate.incumbent"


def incumbent(s: Session, project_id: str, spec: CompileSpec, student: ProgramSpec) -> str | None:
    """The id of what `evaluate.incumbent` names; None without one, and where the job's own program has no such alias yet.

    Raises Invalid for an alias of nothing, and for a program that cannot run the job's rows under its metric.
    """
    if spec.evaluate.incumbent is None:
        return None
    if "compiled" not in spec.evaluate.roles:
        raise Invalid(f"{PARAM}: there is nothing to compare it with unless `compiled` is among the roles", param=PARAM)
    name = aliases.parse(spec.evaluate.incumbent, PARAM)
    alias = aliases.find(s, project_id, name)
    if alias is None:
        _check_own(s, project_id, spec, name)
        return None
    artifact = artifacts.get(s, project_id, alias.artifact_id)
    _check_program(s, spec, student, artifact)
    _check_models(s, project_id, artifact)
    return artifact.id


def program_of(s: Session, artifact_id: str) -> ProgramSpec:
    """The program that an artifact was compiled from. Raises NotFound."""
    return programs.load(s, repository.spec_of(repository.by_id(s, artifacts.by_id(s, artifact_id).job_id)).program_id)


def _check_own(s: Session, project_id: str, spec: CompileSpec, name: aliases.Name) -> None:
    """The first job of a program has nothing to beat yet, so that the same request serves the first week and every later one."""
    if name.program == spec.program_name:
        return
    hint = did_you_mean(str(name), aliases.of_program(s, project_id, name.program) or [f"{spec.program_name}@{name.alias}"])
    raise Invalid(f"{PARAM}: no alias {name}{hint}", code="alias_not_found", param=PARAM)


def _check_program(s: Session, spec: CompileSpec, student: ProgramSpec, artifact: Artifact) -> None:
    theirs = program_of(s, artifact.id)
    ours, its = input_names(student), input_names(theirs)
    if set(ours) != set(its):
        message = f"{PARAM}: {spec.evaluate.incumbent} takes {', '.join(its)}; the student takes {', '.join(ours)}"
        raise Invalid(message, code="inputs_differ", param=PARAM)
    try:
        check_metric(spec.metric.model_dump(mode="json"), theirs)
    except SpecError as error:
        raise Invalid(f"{PARAM}: {error.message}", code="invalid_metric", param=PARAM) from None


def _check_models(s: Session, project_id: str, artifact: Artifact) -> None:
    for entry in json.loads(artifact.manifest).get("predictors", {}).values():
        try:
            fine_tuned.get(s, project_id, entry["model"])
        except NotFound:
            message = f"{PARAM}: model {entry['model']} of {artifact.id} is gone, so it cannot be run"
            raise Invalid(message, code="model_not_found", param=PARAM) from None
