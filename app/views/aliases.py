"""Aliases and their history as their readers see them."""

from __future__ import annotations

from app.schemas.aliases import AliasMoveRead, AliasRead
from app.views.convert import seconds
from distill.catalog.models import Alias, AliasMove


def alias_read(row: Alias) -> AliasRead:
    name = f"{row.program_name}@{row.alias}"
    return AliasRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=name,
        program_name=row.program_name,
        alias=row.alias,
        artifact=row.artifact_id,
        moved_at=seconds(row.moved_at),
        moved_by=row.moved_by,
        load=f'stillhouse.load("{name}")',
    )


def move_read(row: AliasMove) -> AliasMoveRead:
    return AliasMoveRead(
        id=row.id,
        created_at=seconds(row.created_at),
        name=f"{row.program_name}@{row.alias}",
        artifact=row.artifact_id,
        previous_artifact=row.previous_artifact_id,
        moved_by=row.moved_by,
    )
