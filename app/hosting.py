"""Asking the program host, and its failures as replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import structlog

from app.errors import ApiError
from app.services import Services
from distill.rollouts import RunnerDied, RunnerError
from distill.rollouts.host import HostedProgram
from distill.spec import program_digest
from stillhouse_programs.spec import ProgramSpec, SpecError, canonical_json, check_row, lm_roles, parse_prompt_adapter

log = structlog.get_logger(__name__)

T = TypeVar("T")
Json = dict[str, Any]

#: What a runner says when the LM host, not the request, is the reason.
_UNAVAILABLE = frozenset(
    {
        "unavailable",
        "rate_limited",
        "timeout",
        "connection_waiting",
        "connection_unauthorized",
        "address_not_allowed",
        "quota_exhausted",
        "model_not_found",
    }
)


PREVIEW_SECONDS = 20.0
PREVIEW_PATIENCE_SECONDS = 2.0
"""A program is stored without its prompts rather than wait while others are answered."""


@dataclass(frozen=True)
class Preview:
    """The messages of each predictor, by predictor; or why they cannot be shown."""

    messages: dict[str, list[dict[str, Any]]] | None
    why_not: str | None = None


def preview(services: Services, project_id: str, spec: ProgramSpec) -> Preview:
    """What a program would send, each of its inputs standing as `{input.name}`. It may start a runner; that none can serve is no error.

    Code is not run a second time for it.
    """
    if spec.code is not None:
        return Preview(None, "This program is code: POST …/render shows its prompts, as far as they show before it runs.")
    hosted = hosted_for_render(program_digest(spec), spec, None)
    try:
        return Preview(answered(lambda: _rendered(services, project_id, hosted)))
    except ApiError as error:
        return Preview(None, f"The prompts cannot be shown for inputs that are not given: {error.message} POST …/render takes inputs.")


def _rendered(services: Services, project_id: str, hosted: HostedProgram) -> Json:
    host = services.program_host
    return host.render(project_id, hosted, time_limit_seconds=PREVIEW_SECONDS, patience_seconds=PREVIEW_PATIENCE_SECONDS)


def hosted_for_render(digest: str, spec: ProgramSpec, prompt_adapter: Any, python: str = "") -> HostedProgram:
    """A program whose LMs are never asked; `python` is what its bundle needs."""
    try:
        chosen = parse_prompt_adapter(prompt_adapter) if prompt_adapter is not None else spec.prompt_adapter
    except SpecError as error:
        raise ApiError(422, "invalid_value", error.message, param=error.param) from None
    adapter = chosen.model_dump(mode="json") if chosen else None
    lms = {role: {"slot": role, "options": {}} for role in lm_roles(spec)}
    key = f"render:{digest}:{json.dumps(adapter)}"
    return HostedProgram(key, json.loads(canonical_json(spec)), lms, adapter, python)


def check_inputs(spec: ProgramSpec, inputs: dict[str, Any]) -> None:
    """Raises ApiError 422 for an input that is missing or of the wrong type, before anything is paid for."""
    faults = check_row(spec, inputs)
    if faults:
        details = [{"row": None, "field": fault.field, "message": fault.message} for fault in faults]
        first = faults[0]
        raise ApiError(422, "invalid_inputs", f"inputs.{first.field}: {first.message}", param=f"inputs.{first.field}", details=details)


def scores(services: Services, project_id: str, metric: Json, rows: list[Json], outputs: list[Json], python: str = "") -> list[Json]:
    """What a metric says of rows and the outputs for them; `python` is what its bundle needs. Raises as `answered`."""
    return answered(lambda: services.program_host.try_metric(project_id, metric, rows, outputs, python=python), "metric")


def answered(ask: Callable[[], T], whose: Literal["program", "metric"] = "program") -> T:
    """What the program host answers; `whose` code it runs for that.

    Raises:
        ApiError: 422 when the code cannot take the request, or ends its process or holds it too long; 503 when an LM host or the runner
            cannot serve now.
    """
    try:
        return ask()
    except RunnerError as error:
        if error.code in _UNAVAILABLE:
            raise ApiError(503, error.code, error.message, headers={"retry-after": "5"}) from None
        raise ApiError(422, error.code, error.message, param=error.param) from None
    except TimeoutError:
        raise ApiError(503, "busy", "The program host is busy.", headers={"retry-after": "5"}) from None
    except OSError as error:
        log.error("no_runner", error=str(error))
        raise ApiError(503, "runner_unavailable", "No process for programs can be started now.", headers={"retry-after": "5"}) from None
    except RunnerDied as error:
        if error.is_the_programs:  # it would do so again
            raise ApiError(422, f"{whose}_died", f"The {whose} took its process down: {error}.") from None
        log.error("runner_died", reason=str(error), tail=error.tail)
        raise ApiError(503, "runner_died", "The process that runs programs was lost. Try again.", headers={"retry-after": "1"}) from None
