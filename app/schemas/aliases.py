"""Aliases: names that stay while artifacts change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app import examples
from app.schemas.common import Body, Reply
from app.schemas.rules import ARTIFACT_REF, declared
from distill.spec import ALIAS_NAME


class AliasMoveRequest(Body):
    """Where an alias is to point; with `against`, only if the artifact is better."""

    model_config = examples.shown(artifact=examples.ARTIFACT)

    artifact: Annotated[str, declared(pattern=ARTIFACT_REF)] = Field(max_length=256, description="`art-…`, or another alias of the program")
    against: Annotated[str, declared(pattern=ALIAS_NAME)] | None = Field(
        default=None, max_length=256, description="An alias: move only if better than what it points at"
    )
    min_delta: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = Field(
        default=0.0, description="The whole 95 % interval of the difference must lie above it"
    )


class AliasRead(Reply):
    """`program_name@alias` and the artifact that it names."""

    id: str
    object: Literal["alias"] = "alias"
    created_at: int
    name: str
    program_name: str
    alias: str
    artifact: str
    moved_at: int
    moved_by: str | None = Field(description="The API key that moved it last")
    load: str = Field(description="The Python expression that loads what it names")


class AliasMoveRead(Reply):
    """One move. `artifact` is null where the alias was removed, `previous_artifact` where it was made."""

    id: str
    object: Literal["alias.move"] = "alias.move"
    created_at: int
    name: str
    artifact: str | None
    previous_artifact: str | None
    moved_by: str | None
