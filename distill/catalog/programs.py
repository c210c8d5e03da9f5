"""Programs: specs, stored once a project by their digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog import audit
from distill.catalog.models import Program
from distill.db import Listing, Page, Session, paginate
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
    digest = program_digest(spec)
    values = {
        "id": new_id("prog"),
        "project_id": project_id,
        "digest": digest,
        "name": name,
        "spec": _stored(spec),
        "created_by": created_by,
        "metadata": dict(metadata or {}),
    }
    table = Program.__table__
    statement = insert(table).values(values)  # type: ignore[arg-type]
    s.execute(statement.on_conflict_do_update(index_elements=["project_id", "digest"], set_={"deleted_at": None}))
    return s.execute(select(Program).where(Program.project_id == project_id, Program.digest == digest)).scalar_one()


def get(s: Session, project_id: str, program_id: str) -> Program:
    row = s.scalar(select(Program).where(Program.id == program_id, Program.project_id == project_id, Program.deleted_at.is_(None)))
    if row is None:
        raise NotFound(f"no program {program_id}", code="program_not_found", param="program")
    return row


def spec_of(row: Program) -> ProgramSpec:
    return parse_spec(json.loads(row.spec))


def load(s: Session, program_id: str) -> ProgramSpec:
    """The spec of a job's program, deleted or not. Raises NotFound."""
    row = s.get(Program, program_id)
    if row is None:
        raise NotFound(f"no program {program_id}", code="program_not_found")
    return spec_of(row)


def list_programs(s: Session, project_id: str, page: Page) -> Listing[Program]:
    return paginate(s, select(Program).where(Program.project_id == project_id, Program.deleted_at.is_(None)), Program.id, page)


def delete(s: Session, project_id: str, program_id: str) -> None:
    """Hide a program; jobs that used it keep it. Raises NotFound."""
    get(s, project_id, program_id)
    s.execute(update(Program).where(Program.id == program_id).values(deleted_at=func.clock_timestamp()))
    audit.record(s, project_id, "program.deleted", program_id)


def _stored(spec: ProgramSpec) -> str:
    """The canonical text, with the client's claim about its prompts, which is no part of the digest."""
    if spec.prompt_hash is None:
        return canonical_json(spec)
    return json.dumps({**json.loads(canonical_json(spec)), "prompt_hash": spec.prompt_hash}, ensure_ascii=False, separators=(",", ":"))
