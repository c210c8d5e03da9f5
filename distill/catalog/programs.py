"""Programs: specs, stored once a project by their digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distill.catalog import audit, by_digest
from distill.catalog.models import Program
from distill.db import Listing, Page, Session
from distill.errors import Invalid, NotFound
from distill.ids import new_id
from distill.spec import program_digest
from stillhouse_programs.spec import ProgramSpec, SpecError, canonical_json, parse_spec


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
    return by_digest.put(s, Program, project_id, program_digest(spec), values)


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
