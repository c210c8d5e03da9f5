"""The limits of a project: the client cannot import the server, whose settings say which there are."""

from __future__ import annotations

from app.schemas.account import ProjectUpdate
from distill.catalog import project_limits
from stillhouse.resources.projects import LimitParams


def test_api_and_client_take_each_limit_of_the_settings() -> None:
    assert list(LimitParams.__annotations__) == list(ProjectUpdate.model_fields) == list(project_limits.NAMES)
