"""Running an artifact's program on the server: its own spec, its own models, the options its job trained them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from app.errors import ApiError
from app.hosting import answered, check_inputs
from app.services import Services
from distill.catalog import aliases, bundles
from distill.catalog.models import Artifact
from distill.catalog.targets import resolve
from distill.db import Session
from distill.jobs import repository
from distill.relay import Target
from distill.rollouts.host import HostedProgram
from distill.rollouts.lms import runner_lm
from distill.spec import CompileSpec
from stillhouse_programs.spec import ProgramSpec, canonical_json, parse_spec

SPEC_FILE = "spec.json"


@dataclass(frozen=True)
class Prepared:
    """An artifact ready to be run; each of its LM slots has a target."""

    artifact_id: str
    hosted: HostedProgram
    targets: dict[str, Target]


def prepare(session: Session, services: Services, project_id: str, reference: str, inputs: dict[str, Any]) -> Prepared:
    """Everything a call needs, read in one transaction; `reference` is the artifact's id or an alias.

    Raises:
        NotFound: no such artifact, or a model of it is gone.
        ApiError: 422 for inputs that the program does not take, 503 while a model is not loaded.
    """
    artifact = aliases.artifact(session, project_id, reference)
    program = _program(services, artifact)
    check_inputs(program, inputs)
    manifest = json.loads(artifact.manifest)
    job_spec = repository.spec_of(repository.by_id(session, artifact.job_id))
    slots = {name: f"lm{number}" for number, name in enumerate(manifest["predictors"])}
    targets = {slots[name]: _target(session, project_id, entry["model"]) for name, entry in manifest["predictors"].items()}
    python = bundles.python_of(session, project_id, {"program": bundles.bundle_of(program)})
    bounds = {name: entry.get("answer_tokens") for name, entry in manifest["predictors"].items()}
    lms = _lms(program, job_spec, slots, bounds)
    return Prepared(artifact.id, _hosted(artifact, program, lms, manifest["prompt_adapter"], python), targets)


def run(services: Services, project_id: str, prepared: Prepared, inputs: dict[str, Any]) -> dict[str, Any]:
    """`{"outputs", "usage", "seconds"}`. Raises ApiError 422 or 503; holds no database session."""
    host = services.program_host
    grant = services.relay.grant(prepared.targets)
    try:
        return answered(lambda: host.call(project_id, prepared.hosted, grant.token, inputs))
    finally:
        grant.revoke()


def _program(services: Services, artifact: Artifact) -> ProgramSpec:
    entry = artifact.files.get(SPEC_FILE)
    if entry is None:
        raise ApiError(422, "not_a_spec_program", "This artifact's program is not a spec; load it with stillhouse.load().")
    return parse_spec(json.loads(services.store.read(entry["digest"])))


def _target(session: Session, project_id: str, model: str) -> Target:
    found = resolve(session, project_id, model)
    if found.readiness != "ready":
        raise ApiError(503, f"model_{found.readiness}", f"{model} cannot answer now: {found.reason}.", headers={"retry-after": "5"})
    return found.target


def _lms(program: ProgramSpec, job: CompileSpec, slots: dict[str, str], bounds: dict[str, int | None]) -> dict[str, dict[str, Any]]:
    """Each predictor gets an LM slot of its own, with the generation options of its LM in the job; by predictor."""
    return {one.name: runner_lm(job.lms[one.lm], slots[one.name], bounds[one.name]) for one in program.predictors}


def _hosted(artifact: Artifact, program: ProgramSpec, lms: dict[str, dict[str, Any]], prompt_adapter: Any, python: str) -> HostedProgram:
    body = json.loads(canonical_json(program))
    for predictor in body["predictors"]:
        predictor["lm"] = lms[predictor["name"]]["slot"]
    return HostedProgram(f"artifact:{artifact.id}", body, {lm["slot"]: lm for lm in lms.values()}, prompt_adapter, python)
