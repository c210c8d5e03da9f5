"""/v1/models, /v1/connections and /v1/me."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from fastapi import Depends, Query

from app import examples
from app.auth import AnyCaller, Needs, Writer
from app.deps import ModelId, SessionDep, errors, router
from app.schemas.common import Deleted, Page
from app.schemas.served import ConnectionRead, MeRead, ModelRead, ResolvedLmRead
from app.views.served import connection_model, connection_models, connection_read, model_read, under_alias
from distill.catalog import aliases, connections, devices, fine_tuned, lm_names, targets
from distill.catalog.keys import Caller
from distill.catalog.models import Model
from distill.db import Listing, Session
from distill.db import Page as PageQuery
from distill.jobs import trained

routes = router("serving")

ModelReader = Annotated[Caller, Depends(Needs("models:use", "jobs:read", "jobs:write"))]
LmName = Annotated[
    str,
    Query(min_length=1, max_length=256, description="As in `dspy.LM(…)`: `openai/gpt-4.1-mini`", examples=[examples.TEACHER_MODEL]),
]
_ALL = 1000


@routes.get("/models", summary="List the models that the gateway takes")
def list_models(caller: ModelReader, session: SessionDep) -> Page[ModelRead]:
    """The project's fine-tuned models, newest first; the same under the names of aliases (as `program_name.predictor@alias`); then the
    models that connections list (as `connection/model`)."""
    tuned = _tuned(session, caller.project_id)
    data = [*tuned, *_aliased(session, caller.project_id, tuned), *_listed(session, caller.project_id)]
    return Page(data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)


def _tuned(session: Session, project_id: str) -> list[ModelRead]:
    rows: Listing[Model] = fine_tuned.list_models(session, project_id, PageQuery(limit=_ALL))
    placements = fine_tuned.of_models(session, [row.id for row in rows.data])
    of_id = {row.id: row for row in connections.list_connections(session)}
    lent = devices.lent(session, project_id)
    return [model_read(row, placements.get(row.id), of_id.get(row.connection_id), lent) for row in rows.data]


def _aliased(session: Session, project_id: str, tuned: Iterable[ModelRead]) -> Iterator[ModelRead]:
    known = {model.id: model for model in tuned}
    for name, model_id in aliases.models(session, project_id).items():
        if model_id in known:
            yield under_alias(known[model_id], name)


def _listed(session: Session, project_id: str) -> list[ModelRead]:
    lent = devices.lent(session, project_id)
    return [model for connection in connections.list_connections(session, project_id) for model in connection_models(connection, lent)]


@routes.get("/models/{model_id:path}", summary="Read a model", responses=errors(404))
def get_model(model_id: ModelId, caller: ModelReader, session: SessionDep) -> ModelRead:
    """By any name that a chat takes: its id, a name of an alias, `connection/model`, or a model that one connection lists; with or without
    `openai/` in front. The reply has the id that the list has."""
    found = targets.find(session, caller.project_id, model_id)
    lent = devices.lent(session, caller.project_id)
    if isinstance(found, tuple):
        return connection_model(*found, lent)
    read = model_read(found.model, found.placement, found.connection, lent)
    return under_alias(read, found.alias) if found.alias else read


@routes.delete("/models/{model_id:path}", summary="Delete a fine-tuned model", responses=errors(404, 409))
def delete_model(model_id: ModelId, caller: Writer, session: SessionDep) -> Deleted:
    """It is unloaded, and no job takes it again for a training that is the same. A conflict while a job that is not over uses it, or an
    alias points at an artifact of it; either is named."""
    bare = model_id.removeprefix(fine_tuned.ROUTING_PREFIX)
    trained.delete(session, caller.project_id, bare)
    return Deleted(id=fine_tuned.public_id(bare), object="model")


@routes.get("/connections", summary="List connections")
def list_connections(caller: AnyCaller, session: SessionDep) -> Page[ConnectionRead]:
    """What the project's jobs may name: the operator's connections, whose addresses are not shown, and the project's own."""
    data = [connection_read(row) for row in connections.list_connections(session, caller.project_id)]
    return Page(data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)


@routes.get("/connections/resolve", summary="Resolve the name of an LM", responses=errors(404))
def resolve_lm(lm: LmName, caller: AnyCaller, session: SessionDep) -> ResolvedLmRead:
    """Which connection and model a job would name for an LM of a user's program, as the drop-in asks.

    The rules in `match` of the connections come first: a name without `*` before one with it, then the one with more characters that
    have to be there. Two connections that fit as well as each other are refused (`ambiguous_lm`). Then the name itself may say it:
    `house/<model>`, `connection/model`, or a model that one connection alone lists. No rule is asked of a name that begins with `house/`.
    """
    found = lm_names.resolve(session, caller.project_id, lm)
    return ResolvedLmRead(lm=lm, connection=found.connection.name, model=found.model, rule=found.rule)


@routes.get("/me", summary="Who the key is")
def me(caller: AnyCaller) -> MeRead:
    """The key's project and scopes."""
    return MeRead(project=caller.project_name, project_id=caller.project_id, key_id=caller.key_id, scopes=sorted(caller.scopes))
