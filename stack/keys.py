"""API keys from the command line and at the first start; the key that secrets are sealed under."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill import sealing
from distill.catalog import key_rotation, keys, projects
from distill.catalog.key_rotation import Rotation
from distill.db import Session, unit_of_work
from distill.errors import NotFound, StillhouseError
from stack.errors import StackError

LONGEST_LABEL = 128


def has_project(name: str) -> bool:
    """Whether there is a project of this name."""
    with unit_of_work() as session:
        try:
            projects.get(session, name)
        except NotFound:
            return False
        return True


def make_key(project: str, label: str, scopes: Sequence[str] = ()) -> str:
    """A new key's token; the project is made when there is none, no scopes means the usual ones. Raises StackError."""
    try:
        with unit_of_work() as session:
            return _create(session, project, label, scopes)
    except StillhouseError as error:
        raise StackError(error.message) from error


def make_keys(project: str, labels: Sequence[str], scopes: Sequence[str] = ()) -> list[tuple[str, str]]:
    """`(label, token)` of a new key for each label: all of them, or none. Raises StackError."""
    try:
        with unit_of_work() as session:
            return [(label, _create(session, project, label, scopes)) for label in labels]
    except StillhouseError as error:
        raise StackError(error.message) from error


def labels_of(lines: Iterable[str]) -> list[str]:
    """The labels of a file, one a line; empty lines and those that begin with # say nothing. Raises StackError, which names the line."""
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        if len(label) > LONGEST_LABEL or not label.isprintable():
            raise StackError(f"line {number}: a label has at most {LONGEST_LABEL} characters, and no tabs")
        if label in found:
            raise StackError(f"line {number}: {label} stands in line {found[label]} already")
        found[label] = number
    if not found:
        raise StackError("there is no label in it")
    return list(found)


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


def rotate_sealing_key() -> Rotation:
    """Every stored secret is sealed anew under another key, and the one before is forgotten. Raises StackError."""
    try:
        if not sealing.has_own_file() and not sealing.has_several_keys():
            raise StackError(_ONE_KEY)
        with unit_of_work() as session:
            done = key_rotation.rotate(session)
        if sealing.has_own_file():
            sealing.drop_old_keys()
        return done
    except StillhouseError as error:
        raise StackError(error.message) from error


_ONE_KEY = (
    f"{sealing.VARIABLE} holds one key, so there is none to go over to. Put a new one in front of it, with a comma between them, give that "
    "to every process of the server, start them again, and call this once more"
)


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
