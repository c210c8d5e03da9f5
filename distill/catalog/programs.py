"""Programs: specs, stored once a project by their digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from distill.catalog import audit, bundles, by_digest
from distill.catalog.models import Program
from distill.db import Listing, Page, Session
from distill.errors import Invalid, NotFound
from distill.ids import new_id
from distill.spec import program_digest
from stillhouse_programs.spec import ClientCode, ProgramSpec, SpecError, canonical_json, parse_spec


def read_program(raw: Any, param: str = "") -> ProgramSpec:
    """A program spec from parsed JSON. Raises Invalid, whose `param` is the JSON path below `param`."""
    try:
        return parse_spec(raw)
    except SpecError as error:
        place = f"{param}.{error.param}".strip(".") or None
        raise Invalid(error.message, code="invalid_program", param=place) from None


def ensure(
    s: Session,
    project_id: str,
    created_by: str | None,
    spec: ProgramSpec,
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Program:
    """The project's program with this spec, stored now if it is new. A deleted one comes back under its old id."""
    values = {
        "id": new_id("prog"),
        "name": name,
        "spec": _stored(spec),
        "created_by": created_by,
        "metadata": dict(metadata or {}),
    }
    identity = spec.client.identity if spec.client else bundles.identity_of(s, project_id, bundles.bundle_of(spec))
    values.update(identity=identity, base_digest=_base_digest(spec))
    return by_digest.put(s, Program, project_id, program_digest(spec), values)


def _base_digest(spec: ProgramSpec) -> str | None:
    """The digest of a client's program if its client gave no identity; None for other programs."""
    if spec.client is None or spec.client.identity is None:
        return None
    before = ClientCode(inputs=spec.client.inputs, source=spec.client.source)
    return program_digest(spec.model_copy(update={"client": before}))


@dataclass(frozen=True)
class SameCode:
    """Another program whose traces count too. `failed` tells whether those of failed rollouts do."""

    digest: str
    failed: bool


def same_code(s: Session, program_ids: Iterable[str]) -> dict[str, tuple[SameCode, ...]]:
    """By the digest of a program: the others whose traces count too.

    First those of the same identity and predictors that run elsewhere: by the client where this one runs by the server, and the other way
    round. What failed in one place may run in the other, so failed rollouts are not shared. For a program of the client, then those of the
    same `source` by age, where one of both has no identity: two identities that differ are two programs.
    """
    return {row.digest: tuple(_others_of(s, row)) for row in s.scalars(select(Program).where(Program.id.in_(list(program_ids))))}


def _others_of(s: Session, row: Program) -> Iterator[SameCode]:
    of_project = select(Program).where(Program.project_id == row.project_id, Program.id != row.id).order_by(Program.id)
    if row.identity is not None:
        spec = spec_of(row)
        for other in s.scalars(of_project.where(Program.identity == row.identity)):
            if _runs_elsewhere(spec, spec_of(other)):
                yield SameCode(other.digest, failed=False)
        of_project = of_project.where(Program.identity.is_(None))
    base = row.base_digest or row.digest
    for other in s.scalars(of_project.where((Program.base_digest == base) | (Program.digest == base))):
        yield SameCode(other.digest, failed=True)


def _runs_elsewhere(spec: ProgramSpec, other: ProgramSpec) -> bool:
    return (spec.client is None) != (other.client is None) and spec.predictors == other.predictors


def get(s: Session, project_id: str, program_id: str) -> Program:
    return by_digest.get(s, Program, "program", project_id, program_id)


def spec_of(row: Program) -> ProgramSpec:
    return parse_spec(json.loads(row.spec))


def load(s: Session, program_id: str) -> ProgramSpec:
    """The spec of a job's program, deleted or not. Raises NotFound."""
    row = s.get(Program, program_id)
    if row is None:
        raise NotFound(f"no program {program_id}", code="program_not_found")
    return spec_of(row)


def list_programs(s: Session, project_id: str, page: Page) -> Listing[Program]:
    return by_digest.page_of(s, Program, project_id, page)


def delete(s: Session, project_id: str, program_id: str) -> None:
    """Hide a program; jobs that used it keep it. Raises NotFound."""
    by_digest.hide(s, Program, "program", project_id, program_id)
    audit.record(s, project_id, "program.deleted", program_id)


def _stored(spec: ProgramSpec) -> str:
    """The canonical text, with the client's claim about its prompts, which is no part of the digest."""
    if spec.prompt_hash is None:
        return canonical_json(spec)
    return json.dumps({**json.loads(canonical_json(spec)), "prompt_hash": spec.prompt_hash}, ensure_ascii=False, separators=(",", ":"))
