"""Programs and metrics that are code: held against the operator's list, then described by a runner that imports them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from app.bundled import bundle_named
from app.errors import ApiError
from app.hosting import answered
from app.schemas.compile_jobs import JobCreate
from app.schemas.lms import TeacherIn
from app.schemas.programs import ReferenceParts
from app.services import Services
from distill.catalog import metrics, programs
from distill.db import unit_of_work
from distill.errors import Invalid, NotFound
from distill.spec_part import did_you_mean
from stillhouse_programs.spec import ClientMetric, MetricSpec, ProgramReference, ProgramSpec, ReferenceMetric, SpecError, check_allowed

_KNOWN = tuple(ReferenceParts.model_fields)
_METRIC_ID = re.compile(r"metric-[A-Za-z0-9]{1,64}")


@dataclass(frozen=True)
class Code:
    """What the body of a job says of programs (by their place in it) and metric, read."""

    programs: dict[str, ProgramSpec]
    metric: dict[str, Any] | None


def read_code(services: Services, project_id: str, body: JobCreate) -> Code:
    """Every program of the body that is not named by id, and a metric that is not named by type. Raises as `program_spec`.

    It may start a runner and wait for it: call it while no transaction is open.
    """
    given: dict[str, Any] = {"program": body.program}
    teachers = body.teacher if isinstance(body.teacher, list) else [body.teacher]
    given.update({f"teacher[{n}].program": one.program for n, one in enumerate(teachers) if isinstance(one, TeacherIn)})
    read = {at: program_spec(services, project_id, one, at) for at, one in given.items() if isinstance(one, dict)}
    return Code(read, _metric(services, project_id, body.metric))


def _metric(services: Services, project_id: str, given: str | dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(given, str):
        if not _METRIC_ID.fullmatch(given):
            return None
        given = _stored(project_id, given)
    return metric_spec(services, project_id, given)


def _stored(project_id: str, metric_id: str) -> dict[str, Any]:
    """What a metric says that a body names by id. Raises Invalid: what does not exist is a fault of the body."""
    try:
        with unit_of_work("api") as session:
            return metrics.spec_of(metrics.get(session, project_id, metric_id))
    except NotFound as error:
        raise Invalid(error.message, code=error.code, param=error.param) from None


def program_spec(services: Services, project_id: str, given: dict[str, Any], param: str) -> ProgramSpec:
    """The spec that was sent, or of a reference (`{"reference": "package.module:name", …}`) what a runner says of it.

    Raises:
        Invalid: the spec breaks a rule.
        ApiError: 422 for code that is not allowed, fails or cannot be described; 503 while no runner can serve.
    """
    if not isinstance(given.get("reference"), str):
        spec = programs.read_program(given, param)
        if spec.reference is not None:
            _check_code(services, project_id, spec.reference, _below(param, "reference"))
        return spec
    for name in given:
        if name not in _KNOWN:
            place = _below(param, name)
            raise Invalid(f"{place}: unknown key{did_you_mean(name, _KNOWN)}", code="unknown_field", param=place)
    given, python = _placed(services, project_id, {name: value for name, value in given.items() if value is not None}, param)
    described = _described(services, project_id, given, param, python)
    return programs.read_program(described["program"], param)


def metric_spec(services: Services, project_id: str, given: dict[str, Any]) -> dict[str, Any]:
    """The metric as it was sent; one that is code with what tells that code: its bundle, or the source of its package.

    Raises as `program_spec`.
    """
    if given.get("type") != "reference":
        return given
    given, metric, source = _imported(services, project_id, given, "metric")
    return given if metric.bundle else {**given, "source": source}


def metric_to_store(services: Services, project_id: str, given: str | dict[str, Any]) -> MetricSpec:
    """The metric of a body's `spec`; one that is code was imported and is a metric. Raises as `program_spec`."""
    if isinstance(given, dict) and given.get("type") == "reference":
        return _imported(services, project_id, given, "spec")[1]
    metric = metrics.read_metric(given, "spec")
    if isinstance(metric, ClientMetric):
        message = "spec.type: a metric that its client alone has is not stored here; name it in the job"
        raise Invalid(message, code="client_metric", param="spec.type")
    return metric


def _imported(
    services: Services, project_id: str, given: dict[str, Any], param: str
) -> tuple[dict[str, Any], ReferenceMetric, dict[str, str]]:
    """A metric that is code, as it was sent with its bundle by digest, and read; and the source of its package."""
    given, python = _placed(services, project_id, given, param)
    metric = metrics.read_metric(given, param)
    assert isinstance(metric, ReferenceMetric)  # noqa: S101 - for the type checker; its type says so
    asked = {"reference": metric.reference, "kwargs": metric.kwargs, "metric": True, "bundle": metric.bundle}
    return given, metric, _described(services, project_id, asked, param, python)["source"]


def _placed(services: Services, project_id: str, given: dict[str, Any], param: str) -> tuple[dict[str, Any], str]:
    """A body that names code, its bundle by digest, and the Python that this needs; of an installed package it must be allowed."""
    if "bundle" in given:
        row = bundle_named(services, project_id, given["bundle"], _below(param, "bundle"))
        return {**given, "bundle": row.digest}, row.python
    if isinstance(given.get("reference"), str):
        _check_allowed(services, given["reference"], _below(param, "reference"))
    return given, ""


def _check_code(services: Services, project_id: str, code: ProgramReference, param: str) -> None:
    if code.bundle:
        bundle_named(services, project_id, code.bundle, f"{param}.bundle")
    else:
        _check_allowed(services, code.target, f"{param}.target")


def _check_allowed(services: Services, target: str, param: str) -> None:
    try:
        check_allowed(target, services.settings.references, param)
    except SpecError as error:
        raise ApiError(422, getattr(error, "code", "invalid_value"), error.message, param=param) from None


def _described(services: Services, project_id: str, asked: dict[str, Any], param: str, python: str) -> dict[str, Any]:
    try:
        return answered(lambda: services.program_host.describe(project_id, asked, python=python))
    except ApiError as error:
        if error.status == 422:
            error.param = _below(param, (error.param or "reference").removeprefix("metric.").removesuffix(".target"))
        raise


def _below(param: str, name: str) -> str:
    return f"{param}.{name}" if param else name
