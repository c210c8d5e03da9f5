"""/v1/connections/…: a project's own connections, and one connection by its id. The list is in `serving`."""

from __future__ import annotations

from fastapi import Response

from app.auth import Admin, AnyCaller
from app.connection_tests import tried
from app.deps import BODY_ERRORS, ConnectionId, SessionDep, errors, router
from app.idempotency import Made, OnceDep
from app.schemas.common import Deleted
from app.schemas.connections import ConnectionCreate, ConnectionTest, ConnectionTestRead, ConnectionUpdate
from app.schemas.served import ConnectionRead
from app.services import ServicesDep
from app.views.served import connection_read
from distill.catalog import connections, own_connections
from distill.jobs import connection_use

routes = router("connections")


@routes.post(
    "/connections",
    status_code=201,
    response_model=ConnectionRead,
    summary="Register an LM host of the project's own",
    responses={**BODY_ERRORS, **errors(409)},
)
def create_connection(body: ConnectionCreate, caller: Admin, session: SessionDep, once: OnceDep) -> Response:
    """For teachers, at a public address by https, unless the operator allows its host. The key is sealed and never returned.

    A name that the operator has, or the project, is a conflict (`connection_exists`).
    """

    def make() -> Made:
        row = own_connections.create(session, caller.project_id, body.name, body.columns(), body.key(), caller.key_id)
        return Made(connection_read(row), f"/v1/connections/{row.id}")

    return once.reply(make)


@routes.get("/connections/{connection_id}", summary="Read a connection", responses=errors(404))
def get_connection(connection_id: ConnectionId, caller: AnyCaller, session: SessionDep) -> ConnectionRead:
    """The project's own, or the operator's, whose address is not shown."""
    return connection_read(connections.get(session, caller.project_id, connection_id))


@routes.post(
    "/connections/{connection_id}/test",
    response_model=ConnectionTestRead,
    summary="Try a connection",
    responses={**BODY_ERRORS, **errors(404, 409)},
)
def try_connection(
    connection_id: ConnectionId, caller: Admin, services: ServicesDep, once: OnceDep, body: ConnectionTest | None = None
) -> Response:
    """One tiny call: a completion of one token, an embedding where the model has no chat, or a list of models. It says in words what
    failed. A project may do so ten times a minute."""

    def make(found: ConnectionTestRead) -> Made:
        return Made(found, f"/v1/connections/{connection_id}", status=200)

    return once.reply_after(lambda: tried(services, caller.project_id, connection_id, body.model if body else None), make)


@routes.patch("/connections/{connection_id}", summary="Change a connection", responses={**BODY_ERRORS, **errors(404)})
def update_connection(connection_id: ConnectionId, body: ConnectionUpdate, caller: Admin, session: SessionDep) -> ConnectionRead:
    """One of the project's own. Another key holds for the next calls, also of jobs that run. With another address the key is given again,
    and jobs that were submitted for the one before fail with `connection_changed`."""
    return connection_read(own_connections.change(session, caller.project_id, connection_id, body.changes()))


@routes.delete("/connections/{connection_id}", summary="Remove a connection", responses=errors(404, 409))
def delete_connection(connection_id: ConnectionId, caller: Admin, session: SessionDep) -> Deleted:
    """One of the project's own; its key is forgotten. A conflict while a job that is not over uses it, or it is the default teacher."""
    connection_use.remove(session, caller.project_id, connection_id)
    return Deleted(id=connection_id, object="connection")
