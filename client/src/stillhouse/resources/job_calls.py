"""The requests of compile jobs, as both clients send them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from stillhouse import _request
from stillhouse._pages import Rows, list_call
from stillhouse._plain import plain_json
from stillhouse._request import Call, Cascade
from stillhouse.types import (
    CancelledJobs,
    CancelManyParams,
    CompileJob,
    Cost,
    Coverage,
    Deletion,
    DryRun,
    Estimate,
    Evaluation,
    JobCreateParams,
    JobListParams,
    JobUpdateParams,
    Pair,
    RefilterParams,
)

M = TypeVar("M", bound=BaseModel)
PATH = "/v1/compile_jobs"
ESTIMATE_SECONDS = 150.0
"""The server starts a process that loads the program, and reads every row."""


def create(params: JobCreateParams, key: str | None, if_changed: bool) -> Call[CompileJob]:
    call = _request.create(PATH, CompileJob, _request.given(params), key)
    return replace(call, params={"if_changed": True}) if if_changed else call


def dry_run(params: JobCreateParams) -> Call[DryRun]:
    return Call("POST", PATH, DryRun.model_validate, params={"dry_run": "true"}, json=plain_json(_request.given(params)))


def estimate(params: JobCreateParams) -> Call[Estimate]:
    return _request.post(f"{PATH}/estimate", Estimate, plain_json(_request.given(params)), timeout=ESTIMATE_SECONDS)


def retrieve(job_id: str, wait: float | None = None) -> Call[CompileJob]:
    timeout = None if wait is None else wait + 15
    return _request.get(_request.at(PATH, job_id), CompileJob, wait=None if wait is None else int(wait), timeout=timeout)


def list_jobs(params: JobListParams) -> Call[Rows[CompileJob]]:
    return list_call(PATH, CompileJob, dict(params))


def cancel_many(params: CancelManyParams) -> Call[CancelledJobs]:
    return _request.post(f"{PATH}/cancel", CancelledJobs, _request.given(params))


def verb(job_id: str, verb: str) -> Call[CompileJob]:
    return _request.post(_request.at(PATH, job_id, verb), CompileJob)


def delete(job_id: str, *, dry_run: bool, cascade: Cascade | None) -> Call[Deletion]:
    return _request.erase(_request.at(PATH, job_id), dry_run=dry_run, cascade=cascade)


def retry(job_id: str, fine_tuning_job: str | None, key: str | None) -> Call[CompileJob]:
    return _request.create(_request.at(PATH, job_id, "retry"), CompileJob, _request.given({"fine_tuning_job": fine_tuning_job}), key)


def refilter(job_id: str, params: RefilterParams, key: str | None) -> Call[CompileJob]:
    return _request.create(_request.at(PATH, job_id, "refilter"), CompileJob, _request.given(params), key)


def update(job_id: str, params: JobUpdateParams, if_match: str | None) -> Call[CompileJob]:
    body = _request.given(params)
    headers = {"If-Match": if_match} if if_match is not None else {}
    return Call("PATCH", _request.at(PATH, job_id), CompileJob.model_validate, json=plain_json(body), headers=headers)


def part(job_id: str, part: str, model: type[M], **params: Any) -> Call[Rows[M]]:
    return list_call(_request.at(PATH, job_id, part), model, params)


def evaluation(job_id: str) -> Call[Evaluation]:
    return _request.get(_request.at(PATH, job_id, "evaluations"), Evaluation)


def pairs(job_id: str, change: str | None, against: str | None, limit: int | None) -> Call[Rows[Pair]]:
    return part(job_id, "evaluations/pairs", Pair, change=change, against=against, limit=limit, order="asc")


def records(job_id: str, fine_tuning_job: str, format: str, part: str) -> Call[None]:
    path = _request.at(PATH, job_id, "training_files", fine_tuning_job, "content")
    return Call("GET", path, lambda _: None, params={"format": format, "part": part})


def coverage(job_id: str) -> Call[Coverage | None]:
    def parse(body: Any) -> Coverage | None:
        return Coverage.model_validate(body["coverage"]) if body.get("coverage") else None

    return Call("GET", _request.at(PATH, job_id, "training_files"), parse)


def cost(job_id: str) -> Call[Cost]:
    return _request.get(_request.at(PATH, job_id, "cost"), Cost)
