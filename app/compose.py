"""A job's request into a compile spec: what was sent inline is checked and stored first, and named by id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.references import Code
from app.schemas.compile_jobs import JobCreate, Rows
from app.schemas.lms import LmIn, TeacherIn
from app.services import Services
from distill.catalog import datasets, programs
from distill.catalog.fields import check_rows
from distill.catalog.keys import Caller
from distill.db import Session
from distill.errors import Invalid, NotFound
from distill.spec import CompileSpec, read_spec
from distill.storage import BlobStore

_PROGRAM_ID = re.compile(r"prog-[A-Za-z0-9]{1,64}")
_DATASET = re.compile(r"ds-[A-Za-z0-9]{1,64}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}@(v[0-9]{1,9}|latest)")
_MAY_BE_NULL = {"smoke_test"}
"""Where null says something else than a field that is left out."""
_NAMED_APART = {"project", "program", "teacher", "trainset", "valset", "priority"}


@contextmanager
def naming_no_path() -> Iterator[None]:
    """What a body names and does not exist is a fault of the body (422): the path itself was found."""
    try:
        yield
    except NotFound as error:
        raise Invalid(error.message, code=error.code, param=error.param, details=error.details) from None


def _check_reference(given: str, pattern: re.Pattern[str], param: str, expected: str) -> None:
    """Something that was sent in the wrong place is refused before it could stand in a message."""
    if not pattern.fullmatch(given):
        raise Invalid(f"{param}: expected {expected}", param=param)


def check_project(caller: Caller, project: str | None) -> None:
    """A key sees its own project alone, by name or id. Raises Invalid."""
    if project is not None and project not in (caller.project_name, caller.project_id):
        raise Invalid(f"project: this key belongs to project {caller.project_name}", code="wrong_project", param="project")


class Composer:
    """For one request: everything is stored in its transaction, for the caller's project; rows in `store`, if not in the server's."""

    def __init__(self, session: Session, services: Services, caller: Caller, code: Code, store: BlobStore | None = None) -> None:
        self._session = session
        self._services = services
        self._store = store or services.store
        self._caller = caller
        self._code = code

    def spec(self, body: JobCreate) -> CompileSpec:
        """The compile spec of a request.

        Raises:
            Invalid: a part breaks a rule; `param` and `details` name the place and the rows.
        """
        check_project(self._caller, body.project)
        program_id = self._program(body.program, "program")
        raw = body.model_dump(mode="json", exclude_unset=True, exclude=_NAMED_APART)
        raw["program_id"], raw["lms"] = program_id, _lms(body.lms)
        if self._code.metric is not None:
            raw["metric"] = self._code.metric
        raw["trainset"] = self._rows(body.trainset, program_id, "trainset")
        if body.valset is not None:
            raw["valset"] = self._rows(body.valset, program_id, "valset")
        if body.teacher is not None:
            raw["teacher"] = self._teachers(body.teacher)
        return read_spec({key: value for key, value in raw.items() if value is not None or key in _MAY_BE_NULL})

    def _program(self, given: str | dict[str, Any], param: str) -> str:
        if isinstance(given, str):
            _check_reference(given, _PROGRAM_ID, param, "a program's id (prog-…) or a spec")
            return programs.get(self._session, self._caller.project_id, given).id
        return programs.ensure(self._session, self._caller.project_id, self._caller.key_id, self._code.programs[param]).id

    def _rows(self, given: str | Rows, program_id: str, param: str) -> str:
        if isinstance(given, str):
            _check_reference(given, _DATASET, param, "a dataset (ds-…, name@v3, name@latest) or a list of rows")
            return given
        self._check_count(len(given), param)
        check_rows(programs.load(self._session, program_id), given, param)
        return datasets.create(
            self._session, self._store, self._caller.project_id, given, created_by=self._caller.key_id, source_format="json"
        ).id

    def _check_count(self, count: int, param: str) -> None:
        most = self._services.settings.limits.max_inline_rows
        if count == 0:
            raise Invalid(f"{param}: there are no rows", code=f"empty_{param}", param=param)
        if count > most:
            message = f"{param}: {count} rows are too many inline (at most {most}); upload them with POST /v1/datasets and name the dataset"
            raise Invalid(message, code="too_many_inline_rows", param=param)

    def _teachers(self, given: list[TeacherIn] | TeacherIn | str) -> Any:
        if isinstance(given, str):
            return given
        teachers = given if isinstance(given, list) else [given]
        return [self._teacher(teacher, f"teacher[{number}]") for number, teacher in enumerate(teachers)]

    def _teacher(self, given: TeacherIn, param: str) -> dict[str, Any]:
        program_id = self._program(given.program, f"{param}.program") if given.program is not None else ""
        return {"program_id": program_id, "lms": _lms(given.lms)}


def _lms(given: Mapping[str, LmIn]) -> dict[str, Any]:
    """LMs by role, without what is null: that is as if it were left out."""
    return {role: lm.model_dump(mode="json", exclude_unset=True, exclude_none=True) for role, lm in given.items()}
