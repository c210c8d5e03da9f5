"""/v1/aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from app.auth import AliasMover, ArtifactUser
from app.deps import BODY_ERRORS, AliasName, RecentPageDep, SessionDep, errors, router
from app.schemas.aliases import AliasMoveRead, AliasMoveRequest, AliasRead
from app.schemas.common import Deleted, Page
from app.views.aliases import alias_read, move_read
from app.views.convert import page_of
from distill.catalog import aliases
from distill.catalog.promotion import Gate

routes = router("aliases")


@routes.get("/aliases", summary="List aliases")
def list_aliases(
    caller: ArtifactUser,
    session: SessionDep,
    page: RecentPageDep,
    program: Annotated[str | None, Query(description="Only of this `program_name`")] = None,
) -> Page[AliasRead]:
    """Newest first."""
    return page_of(aliases.list_aliases(session, caller.project_id, page, program), alias_read)


@routes.get("/aliases/{name}", summary="Read an alias", responses=errors(404))
def get_alias(name: AliasName, caller: ArtifactUser, session: SessionDep) -> AliasRead:
    """The artifact that it names now."""
    return alias_read(aliases.get(session, caller.project_id, aliases.parse(name)))


@routes.put("/aliases/{name}", summary="Move an alias", responses={**BODY_ERRORS, **errors(404, 409)})
def put_alias(name: AliasName, body: AliasMoveRequest, caller: AliasMover, session: SessionDep) -> AliasRead:
    """Makes it if need be. With `against`, 409 `worse`, `inconclusive` or `not_compared` unless the artifact is better."""
    gate = Gate(body.against, body.min_delta) if body.against else None
    return alias_read(aliases.move(session, caller.project_id, aliases.parse(name), body.artifact, caller.key_id, gate))


@routes.delete("/aliases/{name}", summary="Remove an alias", responses=errors(404))
def delete_alias(name: AliasName, caller: AliasMover, session: SessionDep) -> Deleted:
    """Its artifact and its history stay."""
    aliases.remove(session, caller.project_id, aliases.parse(name), caller.key_id)
    return Deleted(id=name, object="alias")


@routes.get("/aliases/{name}/history", summary="Where an alias has pointed", responses=errors(404))
def list_alias_moves(name: AliasName, caller: ArtifactUser, session: SessionDep, page: RecentPageDep) -> Page[AliasMoveRead]:
    """Newest first, with who moved it; also of an alias that was removed."""
    return page_of(aliases.history(session, caller.project_id, aliases.parse(name), page), move_read)
