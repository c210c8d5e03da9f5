"""The API as an ASGI application; `app.serve` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from app import errors
from app.auth import OPEN_PATHS, Checks, KeyCheck, check_key, check_session
from app.body_schema import limit_integers
from app.browser import HostCheck, SafeHeaders, names_of
from app.key_use import KeyUse
from app.metrics import Metrics
from app.middleware import BodyLimit, LastResort, RequestLog, with_request_id
from app.queries import check_names
from app.rate import of_keys, of_sign_ins
from app.repeats import Repeats
from app.routes import ALL_ROUTERS
from app.schemas.common import Body, ErrorBody
from app.schemas.rules import WITHOUT_NUL
from app.services import Services
from app.traced import Traced
from distill import VERSION
from distill.ids import new_id
from distill.settings import Settings, get_settings

TITLE = "Stillhouse"
DESCRIPTION = """A distillation server for DSPy programs: a program, a teacher, examples and a metric go in; a compiled program comes out.

Every request needs `Authorization: Bearer sh_…`, except /livez, /readyz and /sign-in. Ids are prefixed strings, times Unix seconds.

Final statuses of a compile job are `succeeded`, `failed` and `cancelled`; clients treat statuses, steps and event types as open sets.

Send an `Idempotency-Key` with every POST that creates something: the same key and body again get the stored reply."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(host: str | None = None) -> ASGIApp:
    """The whole API with its layers, from the process's settings. Nothing is opened before the server starts it.

    `host`: what it is bound to, where that is not what the settings say.
    """
    settings = get_settings()
    metrics = Metrics(settings, VERSION)
    key_use = KeyUse()
    checks = Checks(check_key, check_session, of_keys(settings).check, of_sign_ins(settings).check, key_use.note)
    app = build_routes(_lifespan(settings, key_use))
    app.state.metrics = metrics
    names = names_of(settings.server.hosts, host or settings.server.host)
    return _Layered(app, settings, metrics, checks, names)


def build_routes(lifespan: Lifespan | None = None) -> FastAPI:
    """The routes alone: what openapi.json is made from."""
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=_operation_id,
        separate_input_output_schemas=False,
        redirect_slashes=False,  # an id that ends in %2F is unknown: no redirect to another path
        dependencies=[Depends(check_names)],
    )
    for one in ALL_ROUTERS:
        app.include_router(one)
    errors.install(app)
    app.add_middleware(Repeats)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def _lifespan(settings: Settings, key_use: KeyUse) -> Lifespan:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        with key_use.written():
            async with Services(settings) as services:
                app.state.services = services
                yield

    return run


def _operation_id(route: APIRoute | APIRouter) -> str:
    return str(getattr(route, "name", ""))


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document that is committed as openapi.json; made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _as_written(document["components"]["schemas"])
        error = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= {**error.pop("$defs"), "ErrorBody": error}
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer", "description": "`sh_<id>_<secret>`"}}
        document["security"] = [{"apiKey": []}]
        for path in OPEN_PATHS:
            for operation in document["paths"][path].values():
                operation["security"] = []
        for path in document["paths"]:
            if path.startswith(errors.OPENAI_SHAPED):
                _as_openai(document["paths"][path])
            for operation in document["paths"][path].values():
                _as_sent(operation.get("parameters", ()))
        _with_names(document["components"]["schemas"])
        limit_integers(document)
        app.openapi_schema = document
    return app.openapi_schema


def _as_written(schemas: dict[str, Any], parent: type[Body] = Body) -> None:
    """Examples with their keys in the order in which people read them; pydantic has sorted them."""
    for body in parent.__subclasses__():
        extra = body.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and "examples" in extra and body.__name__ in schemas:
            schemas[body.__name__]["examples"] = extra["examples"]
        _as_written(schemas, body)


def _as_openai(path: dict[str, Any]) -> None:
    """What would be 422 is 400 there; see `errors.status_at`."""
    for operation in path.values():
        refused = operation["responses"].pop("422")
        operation["responses"]["400"] = {**refused, "description": "The request is not valid JSON, or breaks the schema or a rule"}


def _with_names(schema: Any) -> None:
    """What names of an object's fields have to look like, in words that leave all other names out: pydantic's do not."""
    if isinstance(schema, dict) and len(schema.get("patternProperties", ())) == 1:
        ((pattern, values),) = schema.pop("patternProperties").items()
        schema |= {"propertyNames": {**schema.get("propertyNames", {}), "pattern": pattern}, "additionalProperties": values}
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _with_names(inner)


def _as_sent(parameters: Iterable[dict[str, Any]]) -> None:
    """What can be left out is not required: null cannot be sent in a header or a query, though pydantic says so of an optional one. NUL,
    which no text may hold, can."""
    for parameter in parameters:
        schema = parameter["schema"]
        kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            del schema["anyOf"]
            schema.update(kinds[0])
        if schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "const", "format"}:
            schema["pattern"] = WITHOUT_NUL


class _Layered:
    """The routes inside their layers; `routes` is there for tools that walk them."""

    def __init__(self, app: FastAPI, settings: Settings, metrics: Metrics, checks: Checks, names: Collection[str] | None) -> None:
        self.routes = app
        limited = BodyLimit(app, settings.limits.max_body_mb * 1_000_000)
        guarded = LastResort(HostCheck(KeyCheck(Traced(limited), checks), names))
        self._outermost = with_request_id(RequestLog(SafeHeaders(guarded), metrics.observe), lambda: new_id("req"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._outermost(scope, receive, send)
