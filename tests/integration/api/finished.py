"""A finished job's leavings, made without running one: a served model and an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from starlette.testclient import TestClient

from distill.catalog import artifacts, connections, devices, fine_tuned
from distill.db import unit_of_work
from distill.jobs import repository, service
from distill.jobs.service import NewFineTuneJob
from distill.settings import get_settings
from distill.storage import open_store
from tests.integration.api.conftest import job_body

MODEL = "sh-router-self-abcd1234"
HAS_MODEL = text("""
UPDATE fine_tune_jobs SET status = 'succeeded', started_at = now(), finished_at = now(), model_id = :model WHERE job_id = :job
""")


@dataclass(frozen=True)
class Finished:
    job_id: str
    artifact_id: str
    placement_id: int
    model: str = MODEL


def finish(api: TestClient, model: str = MODEL, body: Mapping[str, Any] | None = None) -> Finished:
    """A job whose one predictor, `self`, has the model `model`, which is still to be loaded."""
    body = body or job_body(program_name="router")
    job_id: str = api.post("/v1/compile_jobs", json=body).json()["id"]
    with unit_of_work() as s:
        job, house = repository.lock(s, job_id), connections.find(s, "house")
        assert house is not None
        key = NewFineTuneJob("v1:k", "", ("student",), ("self",), house.id, "tiny", "local", {"n_epochs": 3})
        child = service.create_fine_tune_jobs(s, job, [key])[0]
        fine_tuned.create(
            s,
            model_id=model,
            project_id=job.project_id,
            job_id=job_id,
            fine_tune_job_id=child.id,
            connection_id=house.id,
            program_name=job.program_name,
            predictors=["self"],
            base_model="tiny",
            base_model_digest=None,
            files={},
            settings={},
        )
        fine_tuned.want(s, model, house.id)
        predictor = {"model": model, "lm_role": "student", "answer_tokens": 70}
        manifest = {"prompt_adapter": {"type": "chat"}, "predictors": {"self": predictor}}
        files = _stored({"manifest.json": json.dumps(manifest), "spec.json": json.dumps(body["program"]), "README.md": "# router"})
        artifact = artifacts.create(
            s,
            project_id=job.project_id,
            job_id=job_id,
            name=job.program_name,
            digest=str(files["manifest.json"]["digest"]),
            manifest=json.dumps(manifest),
            files=files,
            metadata=job.user_metadata,
        )
        placement = fine_tuned.of_models(s, [model])[model]
        return Finished(job_id, artifact.id, placement.id, model)


def _stored(contents: dict[str, str]) -> dict[str, dict[str, str | int]]:
    store = open_store(get_settings())
    return {path: {"digest": store.put(text.encode()), "size_bytes": len(text.encode())} for path, text in contents.items()}


def load(finished: Finished) -> None:
    """Let the model be loaded."""
    with unit_of_work() as s:
        fine_tuned.set_placement(s, finished.placement_id, "ready")


def trained(finished: Finished) -> None:
    """Let the job's key have its model."""
    with unit_of_work() as s:
        s.execute(HAS_MODEL, {"model": finished.model, "job": finished.job_id})


def lend_device(finished: Finished) -> tuple[str, datetime]:
    """Let the model's LM host lend its device to the job's training: its fine-tune job, and since when."""
    with unit_of_work() as s:
        (child,) = repository.fine_tune_jobs(s, finished.job_id)
        item = s.scalar(
            text("UPDATE work_items SET step = 'train', fine_tune_job_id = :child WHERE job_id = :job RETURNING id"),
            {"child": child.id, "job": finished.job_id},
        )
        connections.by_id(s, child.connection_id).device = "gpu-0"
        s.flush()
        devices.configure(s, "gpu-0", "pause")
        state = devices.acquire(s, "gpu-0", item, 60)
        assert state is not None
        assert devices.acknowledge(s, "gpu-0", state.fence)
        s.expire_all()
        since = connections.by_id(s, child.connection_id).waiting_since
        assert since is not None
        return child.id, since.astimezone(UTC)
