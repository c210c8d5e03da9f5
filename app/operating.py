"""What operators may see and act on in projects other than their key's own."""

from __future__ import annotations

from distill.catalog import projects
from distill.catalog.keys import Caller
from distill.db import Session


def projects_seen(session: Session, caller: Caller) -> dict[str, str]:
    """Names of the projects whose jobs the caller may see, by id."""
    return projects.names(session) if caller.operates else {caller.project_id: caller.project_name}
