"""Projects: what everything belongs to."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.datasets import NAME
from distill.catalog.models import Project
from distill.db import Session
from distill.errors import Conflict, Invalid, NotFound
from distill.ids import new_id


def create(s: Session, name: str, share: float = 1.0) -> Project:
    """A new project. Raises Invalid for a bad name, Conflict for one that is taken."""
    if not NAME.match(name):
        raise Invalid("name: letters, digits, `.`, `_` and `-`, at most 128", param="name")
    statement = insert(Project).values(id=new_id("proj"), name=name, share=share).on_conflict_do_nothing().returning(Project)
    made: Project | None = s.scalar(statement)
    if made is None:
        raise Conflict(f"project {name} exists already", code="name_taken", param="name")
    return made


def ensure(s: Session, name: str) -> Project:
    """The project of this name, made now if there is none."""
    s.execute(insert(Project).values(id=new_id("proj"), name=name).on_conflict_do_nothing())
    return s.execute(select(Project).where(Project.name == name)).scalar_one()


def get(s: Session, name_or_id: str) -> Project:
    row = s.scalar(select(Project).where((Project.id == name_or_id) | (Project.name == name_or_id)))
    if row is None:
        raise NotFound(f"no project {name_or_id}", param="project")
    return row


def list_projects(s: Session) -> list[Project]:
    return list(s.scalars(select(Project).order_by(Project.name)))
