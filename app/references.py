"""Programs and metrics that are code: held against the operator's list, then described by a runner that imports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.errors import ApiError
from app.hosting import answered
from app.schemas.compile_jobs import JobCreate
from app.schemas.lms import TeacherIn
from app.schemas.programs import ReferenceParts
from app.services import Services
from distill.catalog import programs
from distill.errors import Invalid
from distill.spec import did_you_mean
from stillhouse_programs.spec import ProgramSpec, ReferenceMetric, SpecError, check_allowed, parse_metric

_KNOWN = tuple(ReferenceParts.model_fields)


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
    metric = metric_spec(services, project_id, body.metric) if isinstance(body.metric, dict) else None
    return Code(read, metric)


def program_spec(services: Services, project_id: str, given: dict[str, Any], param: str) -> ProgramSpec:
    """The spec that was sent, or of a reference (`{"reference": "package.module:name", …}`) what a runner says of it.

    Raises:
        Invalid: the spec breaks a rule.
        ApiError: 422 for code that is not allowed, fails or cannot be described; 503 while no runner can serve.
    """
    if not isinstance(given.get("reference"), str):
        spec = programs.read_program(given, param)
        if spec.reference is not None:
            _check_allowed(services, spec.reference.target, _below(param, "reference.target"))
        return spec
    for name in given:
        if name not in _KNOWN:
            place = _below(param, name)
            raise Invalid(f"{place}: unknown key{did_you_mean(name, _KNOWN)}", code="unknown_field", param=place)
    _check_allowed(services, given["reference"], _below(param, "reference"))
    described = _described(services, project_id, given, param)
    return programs.read_program(described["program"], param)


def metric_spec(services: Services, project_id: str, given: dict[str, Any]) -> dict[str, Any]:
    """The metric as it was sent; one that is code with the source of its package. Raises as `program_spec`."""
    if given.get("type") != "reference":
        return given
    try:
        metric = parse_metric(given)
    except SpecError as error:
        raise Invalid(error.message, code="invalid_value", param=error.param) from None
    assert isinstance(metric, ReferenceMetric)  # noqa: S101 - for the type checker; its type says so
    _check_allowed(services, metric.reference, "metric.reference")
    asked = {"reference": metric.reference, "kwargs": metric.kwargs, "metric": True}
    return {**given, "source": _described(services, project_id, asked, "metric")["source"]}


def _check_allowed(services: Services, target: str, param: str) -> None:
    try:
        check_allowed(target, services.settings.references, param)
    except SpecError as error:
        raise ApiError(422, getattr(error, "code", "invalid_value"), error.message, param=param) from None


def _described(services: Services, project_id: str, asked: dict[str, Any], param: str) -> dict[str, Any]:
    try:
        return answered(lambda: services.program_host.describe(project_id, asked))
    except ApiError as error:
        if error.status == 422:
            error.param = _below(param, (error.param or "reference").removeprefix("metric.").removesuffix(".target"))
        raise


def _below(param: str, name: str) -> str:
    return f"{param}.{name}" if param else name
