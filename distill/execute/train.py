"""Train one key: wait for the device, supervise the trainer, keep its LoRA adapter, and ask for it to be loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import update

from distill.catalog import blobs, connections, devices, fine_tuned
from distill.catalog.devices import DeviceState
from distill.db import Session, unit_of_work
from distill.execute import orders, system_prompts, train_folder
from distill.execute.attempt import LOOK_SECONDS, Attempt
from distill.execute.hooks import crash_point
from distill.execute.lm_host import DRAIN_SECONDS
from distill.execute.orders import Order
from distill.execute.ports import Ports
from distill.execute.work import Troubled, Work
from distill.jobs import checkpoints, claims, events, repository, trained
from distill.jobs.models import FineTuneJob
from distill.jobs.training import key_name
from distill.storage import BlobStore, put_folder

log = structlog.get_logger(__name__)

AGENT_SECONDS = 60.0
"""An agent that has not been heard of for so long before the device was asked for is not there."""
HAND_OVER_SECONDS = DRAIN_SECONDS + AGENT_SECONDS
"""As long as a host may drain, and a little."""


BYTES_A_TOKEN = 3
"""Of a row's JSON; of plain English it is four and more."""


@dataclass(frozen=True)
class Product:
    """What a training left: the LoRA adapter's files as `{name: {"digest", "size_bytes"}}`, curve and log as blobs."""

    files: Mapping[str, Mapping[str, Any]]
    curve: str | None
    log: str | None
    result: Mapping[str, Any]


def run(work: Work, ports: Ports) -> None:
    """Raises Refused for rows or options that can't be trained on, Troubled when the trainer ends badly, Stopped."""
    with unit_of_work() as s:
        key = repository.fine_tune_job(s, work.claim.project_id, str(work.claim.fine_tune_job_id))
        order = orders.of(s, key)
        device = connections.by_id(s, key.connection_id).device
        train_folder.sweep(s, ports.work_root / "train")
    base = ports.trainers[key.trainer].base_digest(key.base_model)
    training = _identity(ports, order, key, base)
    if _reuse(work, order, key, training):
        return
    if device is not None:
        _wait_for_device(work, ports, key, device)
        crash_point("train.leased_device")
        if _reuse(work, order, key, training):  # whoever had the device may have trained the same
            return
    # Importing torch and loading the weights takes a trainer from seconds to minutes, in which it tells nothing.
    work.progress(message="Loading the base model", fine_tuning_job=key.id)
    attempt = Attempt(work, ports, key, order)
    with attempt.of_its_own_folder():
        product = _keep(ports.store, attempt.folder, attempt.train())
    order = _with_system_prompts(ports.store, order, key)
    work.publish(
        counts={"keys": 1, "steps": int(product.result.get("steps", 0))},
        result={"fine_tune_job": key.id},
        locked=lambda s: record(s, ports.store, order, key, product, base),
        on_closed=order.on_closed,
    )


# ------------------------------------------------------------------ reuse


def _identity(ports: Ports, order: Order, key: FineTuneJob, base_digest: str | None) -> str | None:
    """The digest of the training to come, with the options that the trainer would choose; None where it is not known, or not looked for."""
    if base_digest is None or not order.reuses or key.training_file is None:
        return None
    start = None if order.start is None else order.start.config(ports.store)
    with ports.store.open(key.training_file) as rows:
        options = ports.trainers[key.trainer].resolve(key.base_model, train_folder.options_of(key), rows, start)
    return None if options is None else train_folder.training_digest(key, order.seed, base_digest, options, order.start)


def _reuse(work: Work, order: Order, key: FineTuneJob, training: str | None) -> bool:
    """Publish the model of an equal training, if the project has one; False when this key is to be trained."""
    if training is None:
        return False
    with unit_of_work() as s:
        model = trained.find(s, order.project_id, key.connection_id, training)
    if model is None:
        return False
    work.publish(
        counts={"keys": 1, "reused": 1},
        result={"fine_tune_job": key.id, "reused_from": model.fine_tune_job_id},
        locked=lambda s: _take_over(s, order, key, model.id, training),
        on_closed=order.on_closed,
    )
    return True


def _take_over(s: Session, order: Order, key: FineTuneJob, model_id: str, training: str) -> None:
    """Point a key at another's model, its curve and its log. Raises NotFound when the model has just been deleted."""
    model = fine_tuned.hold(s, order.project_id, model_id)
    fine_tuned.want(s, model.id, model.connection_id)
    source = repository.training_of(s, model)
    values = {
        "model_id": model.id,
        "training_digest": training,
        "reused_from": source.id,
        "curve": source.curve,
        "log": source.log,
        "result": {"options": (source.result or {}).get("options")},
    }
    s.execute(update(FineTuneJob).where(FineTuneJob.id == key.id).values(**values))
    text = f"{key_name(key)} is not trained again: {source.id} was trained on the same rows with the same options"
    events.append(s, order.job_id, "log", text, {"fine_tuning_job": key.id, "reused_from": source.id, "model": model.id})


# ------------------------------------------------------------------ device


def _wait_for_device(work: Work, ports: Ports, key: FineTuneJob, device: str) -> None:
    """Lease the device, and wait until the LM host that shares it has handed it over, unless both fit. The lease ends with the item's.

    Raises Stopped, LostLease; Troubled when nobody is there to hand over, or the hand-over takes longer than any host drains. While another
    training has the device, there is no bound.
    """
    work.progress(message=f"Waiting for {device}")
    waited = 0.0
    while True:
        with unit_of_work() as s:
            state = claims.lease_device(s, work.claim, device)
            alone = not devices.has_agent(s, device, AGENT_SECONDS + waited)
        if state is not None and state.granted and (not state.beside or _fits_beside(ports, key, state)):
            return
        if state is not None and waited >= (AGENT_SECONDS if alone else HAND_OVER_SECONDS):
            raise Troubled(*_not_handed_over(device, alone=alone))
        work.wait(LOOK_SECONDS)
        waited = 0.0 if state is None else waited + LOOK_SECONDS


def _fits_beside(ports: Ports, key: FineTuneJob, state: DeviceState) -> bool:
    """Whether host and trainer both fit on the device, by what is free now; where they do not, or nobody can tell, the host is to go."""
    room = ports.trainers[key.trainer].room(key.base_model, _longest_row(ports.store, key))
    log.info(
        "device_room", device=state.id, base_model=key.base_model, room=room and asdict(room), beside=room is not None and room.is_enough
    )
    if room is not None and room.is_enough:
        return True
    with unit_of_work() as s:
        devices.take_alone(s, state.id, state.fence)
    return False


def _longest_row(store: BlobStore, key: FineTuneJob) -> int:
    """Tokens of the longest row, guessed from its bytes: the names of its fields are among them, so it is rather too much."""
    if key.training_file is None:
        return 0
    with store.open(key.training_file) as file:
        return max((len(line) for line in file), default=0) // BYTES_A_TOKEN


def _not_handed_over(device: str, *, alone: bool) -> tuple[str, str]:
    if alone:
        return "no_agent", f"Nobody hands {device} over: no lm-agent is at work beside its LM host"
    advice = f'Read the log of its lm-agent; on_train = "share" in [devices.{device}] trains beside the host'
    return "not_handed_over", f"The LM host has not freed {device} in {HAND_OVER_SECONDS:.0f} s. {advice}."


# ------------------------------------------------------------------ product


def _keep(store: BlobStore, folder: Path, result: Mapping[str, Any]) -> Product:
    files = put_folder(store, folder / "out")
    curve, log = (store.put(place) if place.is_file() else None for place in (folder / "curve.jsonl", folder / "log.txt"))
    return Product(files, curve, log, result)


def _with_system_prompts(store: BlobStore, order: Order, key: FineTuneJob) -> Order:
    """The gateway refuses other prompts than those that the model was trained on, where it is known that there are no others."""
    if order.system_prompts is None or key.training_file is None:
        return order
    found = system_prompts.digests(store, key.training_file, order.system_prompts)
    return order if found is None else replace(order, settings={**order.settings, "system_prompts": found})


# ------------------------------------------------------------------ model


def _trained(order: Order, key: FineTuneJob, base_digest: str | None, options: Mapping[str, Any] | None) -> str | None:
    """The digest by which later jobs find this training, by the trainer's own word for its options."""
    if base_digest is None or options is None or not order.reuses:
        return None
    return train_folder.training_digest(key, order.seed, base_digest, options, order.start)


def record(s: Session, store: BlobStore, order: Order, key: FineTuneJob, product: Product, base: str | None = None) -> None:
    """The model's row, its files, and that it is wanted on the connection its LM belongs to. `base` is the digest of what it started from.

    The trainer's own word for the base model goes before what was asked of it earlier.
    """
    blobs.register(s, store, *(entry["digest"] for entry in product.files.values()), *filter(None, (product.curve, product.log)))
    fine_tuned.create(
        s,
        model_id=order.model_id,
        project_id=order.project_id,
        job_id=order.job_id,
        fine_tune_job_id=key.id,
        connection_id=key.connection_id,
        program_name=order.program_name,
        predictors=key.predictors,
        base_model=key.base_model,
        base_model_digest=product.result.get("base_model_digest"),
        files=product.files,
        settings=order.settings,
    )
    fine_tuned.want(s, order.model_id, key.connection_id)
    used = product.result.get("base_model_digest") or base
    checkpoints.drop(s, key.id)
    values = {
        "model_id": order.model_id,
        "result": dict(product.result),
        "curve": product.curve,
        "log": product.log,
        "log_tail": None,
        "training_digest": _trained(order, key, used, product.result.get("options")),
    }
    s.execute(update(FineTuneJob).where(FineTuneJob.id == key.id).values(**values))
    text = f"{key_name(key)} is trained: model {order.model_id}"
    events.append(s, order.job_id, "log", text, {"fine_tuning_job": key.id, "model": order.model_id})
