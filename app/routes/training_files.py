"""The training files of a compile job: what is in them, and their records."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Response
from starlette.responses import StreamingResponse

from app.auth import Reader
from app.deps import FineTuningJobId, JobId, SessionDep, errors, router
from app.errors import ApiError
from app.lines import MEDIA_TYPE, attachment
from app.schemas.training_files import TrainingFilesRead
from app.services import ServicesDep
from app.views.training_files import file_name, training_files_read
from distill.jobs import facts, repository
from distill.jobs.records import RecordFormat, records

routes = router("compile jobs")


@routes.get("/compile_jobs/{job_id}/training_files", summary="Training files of a job", responses=errors(404))
def list_training_files(job_id: JobId, caller: Reader, session: SessionDep, services: ServicesDep) -> TrainingFilesRead:
    """One for each fine-tune job, once `prepare` is done; and the coverage report, also of a job that stopped for want of rows."""
    job = repository.get(session, caller.project_id, job_id)
    return training_files_read(services.store, job, repository.fine_tune_jobs(session, job.id), facts.coverage(session, job))


@routes.get(
    "/compile_jobs/{job_id}/training_files/{fine_tuning_job}/content",
    summary="Download a training file",
    response_class=Response,
    responses={**errors(404), 200: {"description": "A record a line", "content": {MEDIA_TYPE: {}}}},
)
def training_file_content(
    job_id: JobId,
    fine_tuning_job: FineTuningJobId,
    caller: Reader,
    session: SessionDep,
    services: ServicesDep,
    format: Annotated[RecordFormat, Query(description="`trl`: prompt and completion; `openai`: messages")] = "trl",
    part: Annotated[Literal["train", "validation"], Query(description="The rows trained on, or those that watch the training")] = "train",
) -> StreamingResponse:
    """JSON Lines that TRL's SFTTrainer and OpenAI's fine-tuning take as they are. The same bytes at every download."""
    job = repository.get(session, caller.project_id, job_id)
    row = next((row for row in repository.fine_tune_jobs(session, job.id) if row.id == fine_tuning_job), None)
    digest = None if row is None else row.training_file if part == "train" else row.validation_file
    if row is None or digest is None:
        raise ApiError(404, "no_training_file", f"The job has no {part} rows for {fine_tuning_job}.", param="fine_tuning_job")
    headers = {**attachment(file_name(row, part)), "etag": f'"{digest}-{format}"'}
    return StreamingResponse(records(services.store.open(digest), format), media_type=MEDIA_TYPE, headers=headers)
