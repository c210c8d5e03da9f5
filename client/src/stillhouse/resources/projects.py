"""Projects. Admins of the project `default` make them; all others see their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict, Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types.account import Project
from stillhouse.types.base import Deletion
from stillhouse.types.requests import TaggedListParams

PATH = "/v1/projects"


def _create(name: str, metadata: Mapping[str, str] | None, idempotency_key: str | None) -> Call[Project]:
    return _request.create(PATH, Project, _request.given({"name": name, "metadata": metadata}), idempotency_key)


def _retrieve(project: str) -> Call[Project]:
    return _request.get(_request.at(PATH, project), Project)


def _update(project: str, limits: LimitParams) -> Call[Project]:
    return Call("PATCH", _request.at(PATH, project), Project.model_validate, json=dict(limits))


def _list(params: Mapping[str, Any]) -> Call[Rows[Project]]:
    return list_call(PATH, Project, dict(params))


class LimitParams(TypedDict, total=False):
    """What a project may use and how long it keeps things. One that is left out stays; None gives it back to the server's settings."""

    share: float | None
    max_threads: int | None
    max_jobs: int | None
    month_teacher_usd: float | None
    month_compute_seconds: float | None
    max_blob_gb: float | None
    keep_traces_days: int | None
    """Days, as those below; 0 keeps for ever."""
    keep_events_days: int | None
    keep_job_details_days: int | None
    keep_artifacts_days: int | None
    keep_audit_log_days: int | None


class Projects(Resource):
    def create(self, name: str, *, metadata: Mapping[str, str] | None = None, idempotency_key: str | None = None) -> Project:
        """A new project; `api_keys.create(project=name, …)` makes its first key."""
        return self._client.send(_create(name, metadata, idempotency_key))

    def retrieve(self, project: str) -> Project:
        """By name or id."""
        return self._client.send(_retrieve(project))

    def update(self, project: str, **limits: Unpack[LimitParams]) -> Project:
        """Change what a project may use. For operators."""
        return self._client.send(_update(project, limits))

    def delete(self, project: str, *, dry_run: bool = False) -> Deletion:
        """Erase a project with all it has; with `dry_run`, only say what that would remove. For operators.

        Raises:
            NotFoundError: there is no such project.
            ConflictError: a job of it is not over.
        """
        return self._client.send(_request.erase(_request.at(PATH, project), dry_run=dry_run))

    def list(self, **params: Unpack[TaggedListParams]) -> Page[Project]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))


class AsyncProjects(AsyncResource):
    async def create(self, name: str, *, metadata: Mapping[str, str] | None = None, idempotency_key: str | None = None) -> Project:
        """A new project; `api_keys.create(project=name, …)` makes its first key."""
        return await self._client.send(_create(name, metadata, idempotency_key))

    async def retrieve(self, project: str) -> Project:
        """By name or id."""
        return await self._client.send(_retrieve(project))

    async def update(self, project: str, **limits: Unpack[LimitParams]) -> Project:
        """Change what a project may use. For operators."""
        return await self._client.send(_update(project, limits))

    async def delete(self, project: str, *, dry_run: bool = False) -> Deletion:
        """Erase a project with all it has; see `Projects.delete`."""
        return await self._client.send(_request.erase(_request.at(PATH, project), dry_run=dry_run))

    async def list(self, **params: Unpack[TaggedListParams]) -> AsyncPage[Project]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))
