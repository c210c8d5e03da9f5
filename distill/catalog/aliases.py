"""Aliases: `program_name@alias` names one artifact, moves all its predictors at once, and remembers where it pointed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert

from distill.catalog import artifacts, audit, webhooks
from distill.catalog.models import Alias, AliasMove, Artifact
from distill.catalog.promotion import Gate, check_better
from distill.db import Listing, Page, Session, paginate
from distill.errors import Conflict, Invalid, NotFound
from distill.ids import new_id
from distill.spec import ALIAS_NAME
from distill.spec_part import did_you_mean

_PATTERN = re.compile(ALIAS_NAME)


@dataclass(frozen=True, slots=True)
class Name:
    """The two halves of `support-router@prod`."""

    program: str
    alias: str

    def __str__(self) -> str:
        return f"{self.program}@{self.alias}"


def parse(text: str, param: str = "name") -> Name:
    """Raises Invalid for what is no `program_name@alias`."""
    if not _PATTERN.fullmatch(text):
        raise Invalid(f"{param}: expected program_name@alias, the alias in lower case (support-router@prod)", param=param)
    program, _, alias = text.rpartition("@")
    return Name(program, alias)


def find(s: Session, project_id: str, name: Name) -> Alias | None:
    return s.scalar(_one(project_id, name))


def get(s: Session, project_id: str, name: Name) -> Alias:
    """Raises NotFound, which names the nearest alias of the project."""
    row = find(s, project_id, name)
    if row is None:
        known = [f"{program}@{alias}" for program, alias in s.execute(_names(project_id))]
        raise NotFound(f"no alias {name}{did_you_mean(str(name), known)}", code="alias_not_found", param="name")
    return row


def with_predictor(s: Session, project_id: str, text: str) -> tuple[Alias, str] | None:
    """The alias and the predictor that `program_name.predictor@alias` names, if there is that alias; both names may have dots in them."""
    if not _PATTERN.fullmatch(text):
        return None
    name = parse(text)
    dots = [at for at, sign in enumerate(name.program) if sign == "."]
    query = select(Alias).where(
        Alias.project_id == project_id, Alias.alias == name.alias, Alias.program_name.in_([name.program[:at] for at in dots])
    )
    row = s.scalar(query.order_by(func.length(Alias.program_name).desc()).limit(1))
    return None if row is None else (row, name.program[len(row.program_name) + 1 :])


def models(s: Session, project_id: str) -> dict[str, str]:
    """Every `program_name.predictor@alias` of a project, in order of these names, and the id of the model that it means now."""
    query = select(Alias.program_name, Alias.alias, Artifact.manifest).join(Artifact, Artifact.id == Alias.artifact_id)
    found = {}
    for program, alias, manifest in s.execute(query.where(Alias.project_id == project_id).order_by(Alias.program_name, Alias.alias)):
        for predictor, entry in json.loads(manifest).get("predictors", {}).items():
            found[f"{program}.{predictor}@{alias}"] = entry["model"]
    return found


def of_program(s: Session, project_id: str, program_name: str) -> list[str]:
    """The aliases of a program, in order of their names."""
    return [f"{program}@{alias}" for program, alias in s.execute(_names(project_id).where(Alias.program_name == program_name))]


def artifact(s: Session, project_id: str, reference: str) -> Artifact:
    """An artifact by its id, or by an alias that points at it. Raises NotFound."""
    if "@" not in reference:
        return artifacts.get(s, project_id, reference)
    return artifacts.get(s, project_id, get(s, project_id, parse(reference, "id")).artifact_id)


def list_aliases(s: Session, project_id: str, page: Page, program_name: str | None = None) -> Listing[Alias]:
    query = select(Alias).where(Alias.project_id == project_id)
    return paginate(s, query.where(Alias.program_name == program_name) if program_name else query, Alias.id, page)


def history(s: Session, project_id: str, name: Name, page: Page) -> Listing[AliasMove]:
    """Where an alias has pointed, also before it was removed. Raises NotFound for one that never was."""
    own = (AliasMove.project_id == project_id, AliasMove.program_name == name.program, AliasMove.alias == name.alias)
    if s.scalar(select(AliasMove.id).where(*own).limit(1)) is None:
        get(s, project_id, name)
    return paginate(s, select(AliasMove).where(*own), AliasMove.id, page)


def move(s: Session, project_id: str, name: Name, reference: str, key_id: str | None, gate: Gate | None = None) -> Alias:
    """Point an alias at an artifact (its id, or another alias), making it if need be. The same artifact again changes nothing.

    With a `gate` only if the artifact is better than what the gate's alias points at, in the same transaction; where that alias does
    not exist there is nothing to beat.

    Raises:
        NotFound: no such artifact.
        Invalid: the artifact is another program's.
        Conflict: the gate holds it back (`worse`, `inconclusive`, `not_compared`), or somebody else has just made the alias.
    """
    candidate = artifact(s, project_id, reference)
    if candidate.name != name.program:
        message = f"artifact: {candidate.id} is an artifact of {candidate.name}, and {name} names one of {name.program}"
        raise Invalid(message, code="other_program", param="artifact")
    artifacts.hold(s, candidate.id)
    row = s.scalar(_one(project_id, name).with_for_update())
    if gate is not None:
        _heed(s, project_id, gate, candidate)
    if row is None:
        return _make(s, project_id, name, candidate, key_id)
    if row.artifact_id != candidate.id:
        _remember(s, row, candidate.id, key_id)
        row.artifact_id, row.moved_by, row.moved_at = candidate.id, key_id, func.clock_timestamp()
        s.flush()
        s.refresh(row)
    return row


def remove(s: Session, project_id: str, name: Name, key_id: str | None) -> None:
    """Take an alias away; its artifact and its history stay. Raises NotFound."""
    row = s.scalar(_one(project_id, name).with_for_update()) or get(s, project_id, name)
    _remember(s, row, None, key_id)
    s.delete(row)
    s.flush()


def _heed(s: Session, project_id: str, gate: Gate, candidate: Artifact) -> None:
    beaten = s.scalar(_one(project_id, parse(gate.against, "against")).with_for_update())
    if beaten is not None and beaten.artifact_id != candidate.id:
        check_better(candidate, beaten.artifact_id, gate)


def _make(s: Session, project_id: str, name: Name, candidate: Artifact, key_id: str | None) -> Alias:
    values = {
        "id": new_id("alias"), "project_id": project_id, "program_name": name.program, "alias": name.alias,
        "artifact_id": candidate.id, "moved_by": key_id,
    }  # fmt: skip
    made: Alias | None = s.scalar(insert(Alias).values(values).on_conflict_do_nothing().returning(Alias))
    if made is None:
        raise Conflict(f"{name} was made by somebody else just now; look where it points and try again", code="alias_moved", param="name")
    _note(s, _move_of(made, None, candidate.id, key_id))
    return made


def _remember(s: Session, row: Alias, artifact_id: str | None, key_id: str | None) -> None:
    _note(s, _move_of(row, row.artifact_id, artifact_id, key_id))


def _note(s: Session, move: AliasMove) -> None:
    """Into its history and the audit log, and to whoever wants to hear of it."""
    s.add(move)
    told = {"id": str(Name(move.program_name, move.alias)), "object": "alias", "program_name": move.program_name, "alias": move.alias}
    moved = {"artifact": move.artifact_id, "previous_artifact": move.previous_artifact_id, "moved_by": move.moved_by}
    webhooks.announce(s, move.project_id, "alias.moved", {**told, **moved})
    action: audit.Action = "alias.moved" if move.artifact_id else "alias.removed"
    audit.record(s, move.project_id, action, told["id"], {"from": move.previous_artifact_id, "to": move.artifact_id})


def _move_of(row: Alias, previous: str | None, artifact_id: str | None, key_id: str | None) -> AliasMove:
    return AliasMove(
        id=new_id("move"),
        project_id=row.project_id,
        program_name=row.program_name,
        alias=row.alias,
        artifact_id=artifact_id,
        previous_artifact_id=previous,
        moved_by=key_id,
    )


def _one(project_id: str, name: Name) -> Select[Alias]:
    return select(Alias).where(Alias.project_id == project_id, Alias.program_name == name.program, Alias.alias == name.alias)


def _names(project_id: str) -> Select[str, str]:
    query = select(Alias.program_name, Alias.alias).where(Alias.project_id == project_id)
    return query.order_by(Alias.program_name, Alias.alias)
