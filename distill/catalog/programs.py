"""Programs: specs, stored once a project by their digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

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
    row = by_digest.put(s, Program, project_id, program_digest(spec), values)
    identity = spec.client.identity if spec.client else bundles.identity_of(s, project_id, bundles.bundle_of(spec))
    if identity is not None:
        _identify(s, project_id, [row.digest, *_before_identities(spec)], identity)
    return row


def _identify(s: Session, project_id: str, digests: list[str], identity: str) -> None:
    """Programs keep the identity that they are given first."""
    unknown = update(Program).where(Program.project_id == project_id, Program.digest.in_(digests), Program.identity.is_(None))
    s.execute(unknown.values(identity=identity))


def _before_identities(spec: ProgramSpec) -> list[str]:
    """The digest of a client's program as a client without identities would send it; none of other programs."""
    if spec.client is None or spec.client.identity is None:
        return []
    before = ClientCode(inputs=spec.client.inputs, source=spec.client.source)
    return [program_digest(spec.model_copy(update={"client": before}))]


@dataclass(frozen=True)
class SameCode:
    """Another program of the same code, whose traces count too. `failed` tells whether those of failed rollouts do."""

    digest: str
    failed: bool


def same_code(s: Session, program_ids: Iterable[str]) -> dict[str, tuple[SameCode, ...]]:
    """By the digest of a program: the others that run its code, by the client where it runs by the server, and the other way round.

    Their predictors are equal. What failed in one place may run in the other, so failed rollouts are shared only with the same program as
    older clients sent it.
    """
    rows = s.scalars(select(Program).where(Program.id.in_(list(program_ids)), Program.identity.is_not(None)))
    return {row.digest: tuple(_others_of(s, row)) for row in rows}


def _others_of(s: Session, row: Program) -> Iterator[SameCode]:
    spec = spec_of(row)
    before = _before_identities(spec)
    query = select(Program).where(Program.project_id == row.project_id, Program.identity == row.identity, Program.id != row.id)
    for other in s.scalars(query.order_by(Program.id)):
        if other.digest in before:
            yield SameCode(other.digest, failed=True)
        elif _runs_elsewhere(spec, spec_of(other)):
            yield SameCode(other.digest, failed=False)


def _runs_elsewhere(spec: ProgramSpec, other: ProgramSpec) -> bool:
    by_client, by_server = (spec, other) if spec.client else (other, spec)
    identified = by_client.client is not None and by_client.client.identity is not None
    return identified and by_server.reference is not None and spec.predictors == other.predictors


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
