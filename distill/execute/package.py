"""Package: the artifact's files, its manifest, and the row that publishes them. Running twice gives the same bytes."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.catalog import artifacts, blobs, held_out
from distill.catalog.models import Model
from distill.db import Session, unit_of_work
from distill.execute import context as contexts
from distill.execute import flow, rollout_facts
from distill.execute.context import JobContext
from distill.execute.ports import Ports
from distill.execute.references import references_of
from distill.execute.work import Work
from distill.jobs import repository
from distill.jobs.models import FineTuneJob, Job
from distill.jobs.trained import models_of
from distill.pipeline.package import Facts, File, TunedPredictor, manifest, pretty, readme
from distill.pipeline.plan import row_inputs
from distill.pipeline.roles import rendering_cast
from distill.spec import LmSpec
from distill.storage import BlobStore
from distill.tracing import span
from stillhouse_programs.spec import canonical_json

TUNED = "tune/"


@dataclass(frozen=True)
class Trained:
    """What training left behind, by key."""

    keys: tuple[FineTuneJob, ...]
    models: Mapping[str, Model]


@dataclass(frozen=True)
class Holdout:
    """Digests of the held-out rows: of their `inputs`, which a later job must not train on, whatever labels it has; and whole."""

    inputs: list[str]
    rows: list[str]


def run(work: Work, ports: Ports) -> None:
    with unit_of_work() as s:
        job = contexts.load(s, work.claim.job_id)
        row = repository.by_id(s, job.job_id)
        keys = tuple(repository.fine_tune_jobs(s, job.job_id))
        trained = Trained(keys, {model.id: model for model in models_of(s, job.job_id)})
        holdout = _holdout(ports.store, job)
        facts = _facts(job, trained, row.evaluation, holdout)
        compiled = rollout_facts.compiled_outcomes(s, job.job_id)
    if facts.evaluation is not None and (references := references_of(job, ports.store, compiled)) is not None:
        facts = replace(facts, evaluation={**facts.evaluation, "references": references})
    files = dict(_lora_files(trained.models))
    for name, content in _texts(job, facts).items():
        files[name] = _entry(ports.store, content)
    sizes = {name: File(entry["digest"].removeprefix("sha256:"), entry["size_bytes"]) for name, entry in files.items()}
    text = pretty(manifest(facts, sizes))
    files["manifest.json"] = _entry(ports.store, text)

    def keep(s: Session) -> None:
        repository.by_id(s, job.job_id).evaluation = None if facts.evaluation is None else dict(facts.evaluation)
        blobs.register(s, ports.store, *(entry["digest"] for entry in files.values()))
        made = artifacts.create(
            s,
            project_id=job.project_id,
            job_id=job.job_id,
            name=job.program_name,
            digest=files["manifest.json"]["digest"],
            manifest=text.decode(),
            files=files,
            metadata=repository.by_id(s, job.job_id).user_metadata,
        )
        held_out.store(s, made.id, holdout.inputs)

    def closed(s: Session, row: Job, step: Any) -> None:
        flow.after_package(s, row, step)

    with span("publish artifact", {"stillhouse.files": len(files)}):
        work.publish(locked=keep, on_closed=closed)


def _entry(store: BlobStore, content: bytes) -> dict[str, Any]:
    return {"digest": store.put(content), "size_bytes": len(content)}


def _lora_files(models: Mapping[str, Model]) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in models.values():
        for name, entry in model.files.items():
            yield f"lora/{model.id}/{name}", {"digest": entry["digest"], "size_bytes": entry["size_bytes"]}


def _texts(job: JobContext, facts: Facts) -> dict[str, bytes]:
    spec = json.loads(canonical_json(job.compiled_program))
    state = program_state(job.program_state, {predictor.name: predictor.model for predictor in facts.predictors}, job.answer_tokens)
    return {"spec.json": pretty(spec), "program.json": pretty(state), "README.md": readme(facts)}


def program_state(template: Mapping[str, Any], models: Mapping[str, str], answer_tokens: Mapping[str, int]) -> dict[str, Any]:
    """dspy's state of the program, with each predictor's LM by the id its model is served under, and the default bound of its answers.

    A program that is a bare predictor has a flat state, without a name.
    """
    state = copy.deepcopy(dict(template))
    for name, model in models.items():
        part = state.get(name, state if name == "self" else None)
        if isinstance(part, dict) and isinstance(part.get("lm"), dict):
            part["lm"]["model"] = TUNED + model
            if name in answer_tokens:
                part["lm"].setdefault("max_tokens", answer_tokens[name])
    return state


def _facts(job: JobContext, trained: Trained, evaluation: Mapping[str, Any] | None, holdout: Holdout) -> Facts:
    cast = rendering_cast(job.spec, job.student)
    return Facts(
        program_name=job.program_name,
        job_id=job.job_id,
        program_digest=cast.program_digest,
        prompt_adapter=cast.prompt_adapter.model_dump(mode="json"),
        prompt_hash=job.plan.prompt_hash(cast),
        prompt_samples=list(job.plan.samples),
        dspy_version=job.plan.dspy_version,
        predictors=tuple(_tuned(job, trained, predictor.name, predictor.lm) for predictor in job.student.predictors),
        lms={name: _lm(lm) for name, lm in job.spec.lms.items()},
        teacher=_teacher(job),
        data=_data(job),
        metric=job.spec.metric.model_dump(mode="json"),
        evaluation=evaluation,
        holdout_digests=holdout.rows,
        demos=_demos(job),
    )


def _demos(job: JobContext) -> dict[str, Any]:
    """Which demos the program has: as asked for, or as a trial has said."""
    trial = job.plan.trial
    return {"taken": job.spec.demos} if trial is None else trial.as_json()


def _tuned(job: JobContext, trained: Trained, name: str, lm: str) -> TunedPredictor:
    key = next(key for key in trained.keys if name in key.predictors)
    model = trained.models[str(key.model_id)]
    folder = f"lora/{model.id}" if model.files else None
    tokens = job.answer_tokens.get(name)
    options = (key.result or {}).get("options")
    return TunedPredictor(name, lm, model.id, model.base_model, model.base_model_digest, key.rows or 0, folder, tokens, options)


def _lm(lm: LmSpec) -> dict[str, Any]:
    """How the LM is to be asked; nothing that tells of this server's addresses."""
    plain = {"connection": lm.connection, "base_model": lm.base_model, "options": lm.options(), "constrain": lm.constrain}
    return {**plain, "native": list(lm.native)} if lm.native else plain


def _teacher(job: JobContext) -> dict[str, Any] | None:
    """Whom the first teacher's predictors ask, under the names of the gateway; None where labels teach."""
    if not job.teachers:
        return None
    lms = job.cast("teacher:0").lms
    return {"lms": {name: {"model": f"{lm.connection}/{lm.model}", "options": lm.options()} for name, lm in lms.items()}}


def _data(job: JobContext) -> dict[str, Any]:
    plan = job.plan
    return {
        "trainset": {"id": job.trainset.id, "digest": job.trainset.digest, "rows": job.trainset.row_count},
        "valset": {"id": job.valset.id, "digest": job.valset.digest, "rows": job.valset.row_count} if job.valset else None,
        "train_examples": plan.train_examples,
        "holdout_examples": plan.holdout_examples,
        "holdout_from": plan.holdout_from,
    }


def _holdout(store: BlobStore, job: JobContext) -> Holdout:
    if job.plan.holdout_from is None:
        return Holdout([], [])
    examples = job.examples(store, "holdout", 0, job.plan.holdout_examples)
    inputs = {row_inputs(job.student, example.row) for example in examples}
    return Holdout(sorted(inputs), sorted({example.digest for example in examples}))
