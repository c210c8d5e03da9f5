"""Projects: what everything belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from distill import scrubbing
from distill.catalog import audit, project_limits
from distill.catalog.datasets import NAME
from distill.catalog.models import Project
from distill.db import Listing, Page, Session, paginate
from distill.errors import Conflict, Invalid, NotFound
from distill.ids import new_id
from distill.settings import ProjectSettings, Settings, get_settings

OPERATORS = "default"
"""The project of those who run the server: its admins make the others."""


def create(s: Session, name: str, share: float = 1.0, *, metadata: Mapping[str, str] | None = None) -> Project:
    """A new project. Raises Invalid for a bad name, Conflict for one that is taken."""
    if not NAME.match(name):
        raise Invalid("name: letters, digits, `.`, `_` and `-`, at most 128", param="name")
    values = {"id": new_id("proj"), "name": name, "share": share, "user_metadata": dict(metadata or {})}
    statement = insert(Project).values(values).on_conflict_do_nothing().returning(Project)
    made: Project | None = s.scalar(statement)
    if made is None:
        by_settings = f": the table [projects.{name}] of the settings makes it at start" if name in get_settings().projects else ""
        raise Conflict(f"project {name} exists already{by_settings}", code="name_taken", param="name")
    audit.record(s, made.id, "project.created", made.id, {"name": name})
    return made


def ensure(s: Session, name: str) -> Project:
    """The project of this name, made now if there is none."""
    s.execute(insert(Project).values(id=new_id("proj"), name=name).on_conflict_do_nothing())
    return s.execute(select(Project).where(Project.name == name)).scalar_one()


def sync(s: Session, settings: Settings, *, reset_others: bool = True) -> None:
    """Give projects what the settings give them, and those that are not named the usual; a named one that is not there is made. What was
    changed over the API stays.

    Workers pass `reset_others=False`: one that was started without the file must not change anything for everybody.
    """
    project_limits.lock(s)
    for name in sorted(settings.projects):
        if not NAME.match(name):
            raise Invalid(f"[projects.{name}]: letters, digits, `.`, `_` and `-`, at most 128", param="projects")
        ensure(s, name)
    for row in s.scalars(select(Project).order_by(Project.id)):
        wanted = settings.projects.get(row.name, None if not reset_others else ProjectSettings())
        if wanted is None:
            continue
        values = {**project_limits.columns(row, wanted), "scrub": _scrub(row.name, wanted)}
        if any(getattr(row, name) != value for name, value in values.items()):
            s.execute(update(Project).where(Project.id == row.id).values(values))


def _scrub(name: str, wanted: ProjectSettings) -> str | None:
    if isinstance(wanted.scrub, bool):
        return scrubbing.NO_COUNTRY if wanted.scrub else None
    if wanted.scrub not in scrubbing.COUNTRIES:
        raise Invalid(f'[projects.{name}] scrub: no country has the code {wanted.scrub}; write true, or one like "DE"', param="projects")
    return wanted.scrub


def get(s: Session, name_or_id: str) -> Project:
    row = s.scalar(select(Project).where((Project.id == name_or_id) | (Project.name == name_or_id), Project.deleted_at.is_(None)))
    if row is None:
        raise NotFound(f"no project {name_or_id}", code="project_not_found", param="project")
    return row


def names(s: Session) -> dict[str, str]:
    """The names of all projects, by id."""
    return {row.id: row.name for row in s.execute(select(Project.id, Project.name))}


def list_projects(s: Session, page: Page, only: str | None = None) -> Listing[Project]:
    """All projects, or the one with the id `only`."""
    query = select(Project).where(Project.deleted_at.is_(None))
    return paginate(s, query if only is None else query.where(Project.id == only), Project.id, page)
