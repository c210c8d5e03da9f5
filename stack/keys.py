"""API keys from the command line and at the first start."""

import json
from collections.abc import Sequence
from pathlib import Path

from distill.catalog import keys, projects
from distill.db import Session, unit_of_work
from distill.errors import StillhouseError
from stack.errors import StackError


def make_key(project: str, label: str, scopes: Sequence[str] = ()) -> str:
    """A new key's token; the project is made when there is none, no scopes means the usual ones. Raises StackError."""
    try:
        with unit_of_work() as session:
            return _create(session, project, label, scopes)
    except StillhouseError as error:
        raise StackError(error.message) from error


def first_key(credentials: Path) -> tuple[str, str]:
    """Token and project name of the key in the credentials file, or of a new one when that key does not work on this database."""
    with unit_of_work() as session:
        token = _stored(credentials)
        if token is not None:
            try:
                return token, keys.verify(session, token).project_name
            except StillhouseError:
                pass  # another database, or revoked
        return _create(session, projects.OPERATORS, "made at the first start", keys.SCOPES), projects.OPERATORS


def _create(session: Session, project: str, label: str, scopes: Sequence[str]) -> str:
    owner = projects.ensure(session, project)
    made = keys.create(session, owner.id, label, scopes) if scopes else keys.create(session, owner.id, label)
    return made[1]


def _stored(credentials: Path) -> str | None:
    try:
        found = json.loads(credentials.read_text()).get("api_key")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
