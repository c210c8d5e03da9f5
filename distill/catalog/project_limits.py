"""What a project may use, and for how long it keeps what it has, from the settings or, where an operator changed them, from the API.

The values of the API stand in `projects.limits` and win. Share and threads are repeated in columns, which claims read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, select

from distill.catalog import audit
from distill.catalog.models import Project
from distill.db import Session
from distill.settings import ProjectSettings, RetentionSettings, Settings, get_settings

RETENTION = tuple(RetentionSettings.model_fields)
_NO_LIMITS = frozenset({"scrub"})
NAMES = tuple(name for name in ProjectSettings.model_fields if name not in _NO_LIMITS)
Source = Literal["api", "settings", "default"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that hold now, by name, and where each comes from."""

    values: Mapping[str, Any]
    sources: Mapping[str, Source]


def of(project: Project, settings: Settings | None = None) -> Limits:
    """Of a project, as its row was read; the settings are this process's own unless given."""
    known = settings or get_settings()
    given = known.project(project.name)
    named = (given.model_fields_set if project.name in known.projects else set()) | known.retention.model_fields_set
    changed = project.limits or {}
    sources: dict[str, Source] = {name: "api" if name in changed else "settings" if name in named else "default" for name in NAMES}
    usual = {name: getattr(known.retention, name) for name in RETENTION}
    return Limits({name: changed.get(name, _given(getattr(given, name), usual.get(name))) for name in NAMES}, sources)


def _given(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def columns(project: Project, wanted: ProjectSettings) -> dict[str, Any]:
    """Share and threads where the settings want these; what the API set stays."""
    changed = project.limits or {}
    return {name: changed.get(name, getattr(wanted, name)) for name in ("share", "max_threads")}


def change(s: Session, project_id: str, changes: Mapping[str, Any]) -> Project:
    """Set limits of a project; None gives one back to the settings. They hold from the commit on, in every process."""
    lock(s)
    project = s.scalars(select(Project).where(Project.id == project_id).execution_options(populate_existing=True)).one()
    before = of(project)
    kept = {**(project.limits or {}), **changes}
    project.limits = {name: value for name, value in kept.items() if value is not None} or None
    after = of(project)
    project.share, project.max_threads = after.values["share"], after.values["max_threads"]
    s.flush()
    changed = [name for name in NAMES if (before.values[name], before.sources[name]) != (after.values[name], after.sources[name])]
    if changed:
        data = {when: {name: limits.values[name] for name in changed} for when, limits in (("before", before), ("after", after))}
        audit.record(s, project_id, "project.changed", project_id, data)
    return project


def lock(s: Session) -> None:
    """Processes that start together, and operators, write the limits of projects one by one."""
    s.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("projects", 0))))
