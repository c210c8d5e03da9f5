"""Health, figures, and the interface's own description."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from app.auth import AnyCaller, MetricsReader
from app.deps import COMMON_ERRORS, SessionDep
from app.docs_page import docs_page
from app.metrics import CONTENT_TYPE
from app.services import ServicesDep
from distill.jobs import maintenance

routes = APIRouter(tags=["operations"])


@routes.get("/livez", summary="The process answers", response_class=JSONResponse)
async def livez() -> dict[str, str]:
    """Answers without a key and without the database; also while every thread of the process waits for one."""
    return {"status": "ok"}


@routes.get("/readyz", summary="The process can serve requests", response_class=JSONResponse, responses={503: COMMON_ERRORS[503]})
def readyz(services: ServicesDep, session: SessionDep) -> dict[str, str]:
    """Answers without a key, when the database and the blob store do. Redis is not asked: jobs are accepted without it. `status` is
    `draining` while the server is under maintenance: all but new jobs is served."""
    services.store_check.check()
    return {"status": "draining" if maintenance.is_drained(session) else "ok"}


@routes.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={**COMMON_ERRORS, 200: {"description": "Prometheus text format", "content": {"text/plain": {}}}},
)
def metrics(request: Request, _: MetricsReader, session: SessionDep) -> Response:
    """Of the whole server: for keys of the project `default` with the scope `metrics:read`, or `admin`. Prometheus sends it as its bearer
    token."""
    return Response(request.app.state.metrics.text(session), media_type=CONTENT_TYPE)


@routes.get("/openapi.json", summary="This interface, machine readable", response_class=JSONResponse, responses=COMMON_ERRORS)
def openapi_json(request: Request, _: AnyCaller) -> JSONResponse:
    """Any key, or a browser's session."""
    return JSONResponse(request.app.openapi())


@routes.get("/docs", summary="This interface, for people", response_class=HTMLResponse, responses=COMMON_ERRORS)
def docs(request: Request, _: AnyCaller) -> HTMLResponse:
    """Any key, or a browser's session; a browser without one is led to /sign-in. With a session the page sends its examples, too."""
    page = docs_page(request.app.openapi())
    return HTMLResponse(page.html, headers={"content-security-policy": page.policy})
