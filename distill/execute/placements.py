"""Keeping one LM host in line with what the database wants loaded on it, and handing its device over to trainers."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from distill.catalog import connections, devices, fine_tuned
from distill.catalog.models import Connection, Model, Placement
from distill.db import Session, unit_of_work
from distill.errors import JobFault, StorageError
from distill.execute.lm_host import CannotSleep, HostRefused, LmHostClient
from distill.jobs import claims, repository, service, trained
from distill.jobs.status import JobStatus
from distill.storage import BlobStore
from distill.tracing import span

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 5
PROBE_PROMPTS = 3
PROBE_TOKENS = 24


@dataclass(frozen=True)
class Wanted:
    """A model and its placement, as read in one transaction."""

    placement: Placement
    model: Model


class Agent:
    """One connection's agent. `tick` does what is due now; it may be called again after any error."""

    def __init__(self, connection: Connection, host: LmHostClient, store: BlobStore, cache: Path, name: str) -> None:
        self._connection, self._host, self._store, self._cache, self._name = connection, host, store, cache, name

    def tick(self) -> None:
        """Hand the device over, or load and unload. Raises HostUnreachable, HostRefused.

        Only a tick that got through counts as a sign of life: an agent whose host does not obey hands nothing over.
        """
        if self._host_is_up():
            self._reconcile()
            self._resume()
        if self._connection.device is not None:
            with unit_of_work() as s:
                devices.seen(s, self._connection.device)

    # ------------------------------------------------------------ device

    def _host_is_up(self) -> bool:
        """False while a trainer has the device, or has just been given it."""
        device = self._connection.device
        if device is None:
            return True
        with unit_of_work() as s:
            devices.ensure(s, device)
            state = devices.state(s, device)
        if state.wanted:
            return not self._hand_over(device, state.fence)
        if state.leased and state.acknowledged:
            self._stay_asleep(device)
            return False
        if self._host.is_sleeping():
            log.info("device_taken_back", device=device)
            self._host.wake_up()
        return True

    def _stay_asleep(self, device: str) -> None:
        """A host that was started again since has no idea that a trainer has its room."""
        if not self._host.is_sleeping():
            log.info("device_handed_over_again", device=device)
            with suppress(CannotSleep):  # another build of it, then: trainers share the device when it is asked for next
                self._host.sleep()

    def _hand_over(self, device: str, fence: int) -> bool:
        """False when the host can't free the device: trainers share it from now on, until the settings are read again."""
        try:
            self._host.sleep()
        except CannotSleep as error:
            log.warning("device_is_shared", device=device, reason=str(error), advice=f'set on_train = "share" in [devices.{device}]')
            with unit_of_work() as s:
                devices.configure(s, device, "share")
            return False
        with unit_of_work() as s:
            devices.acknowledge(s, device, fence)
        log.info("device_handed_over", device=device, fence=fence)
        return True

    def _resume(self) -> None:
        """Let work for this host be claimed again; only now, since its models had to be loaded first."""
        device = self._connection.device
        with unit_of_work() as s:
            if device is not None and connections.by_id(s, self._connection.id).waiting_since is not None:
                devices.taken_back(s, device)

    # ------------------------------------------------------------ models

    def _reconcile(self) -> None:
        loaded = self._host.models()
        for wanted in self._wanted():
            status = wanted.placement.status
            if status == "unwanted":
                self._unload(wanted, loaded)
            elif status == "ready" and wanted.model.id in loaded:
                continue
            elif status != "failed":
                self._load(wanted, loaded)

    def _wanted(self) -> list[Wanted]:
        with unit_of_work() as s:
            return [Wanted(placement, model) for placement, model in fine_tuned.on_connection(s, self._connection.id)]

    def _unload(self, wanted: Wanted, loaded: frozenset[str]) -> None:
        if wanted.model.id in loaded:
            self._host.unload(wanted.model.id)
        shutil.rmtree(self._cache / wanted.model.id, ignore_errors=True)
        self._set(wanted, "gone")

    def _load(self, wanted: Wanted, loaded: frozenset[str]) -> None:
        if wanted.placement.attempts >= MOST_ATTEMPTS:  # nobody lived to say why the last one came to nothing
            self._give_up(wanted, f"its LM host, or the agent beside it, ended {MOST_ATTEMPTS} times while it was loaded")
            return
        if not self._set(wanted, "loading"):
            return
        attributes = {"gen_ai.request.model": wanted.model.id, "stillhouse.connection": self._connection.name}
        try:
            with span("load model", attributes, kind="client", job_id=wanted.model.job_id):
                if wanted.model.id not in loaded:
                    self._host.load(wanted.model.id, self._materialise(wanted.model))
                warning = self._probe(wanted.model)
        except (HostRefused, StorageError) as error:
            self._not_loaded(wanted, str(error))
            return
        with unit_of_work() as s:
            if fine_tuned.set_placement(s, wanted.placement.id, "ready", agent=self._name):
                _tell_jobs(s, wanted.model, warning)
        log.info("model_loaded", job_id=wanted.model.job_id, model=wanted.model.id, warning=warning)

    def _not_loaded(self, wanted: Wanted, message: str) -> None:
        attempt = wanted.placement.attempts + 1
        log.warning("model_not_loaded", job_id=wanted.model.job_id, model=wanted.model.id, error=message, attempt=attempt)
        if attempt < MOST_ATTEMPTS:
            self._set(wanted, "wanted")
        else:
            self._give_up(wanted, message)

    def _give_up(self, wanted: Wanted, message: str) -> None:
        with unit_of_work() as s:
            if not fine_tuned.set_placement(s, wanted.placement.id, "failed", error=message, agent=self._name):
                return
            text = f"Model {wanted.model.id} could not be loaded on connection {self._connection.name}: {message}"
            for job_id in trained.waiting_for(s, wanted.model.id):
                claims.fail_job(s, job_id, JobFault("model_not_loaded", text, "system", step="evaluate", retryable=True))

    def _set(self, wanted: Wanted, status: fine_tuned.PlacementStatus) -> bool:
        with unit_of_work() as s:
            return fine_tuned.set_placement(s, wanted.placement.id, status, agent=self._name)

    def _materialise(self, model: Model) -> Path:
        """The model's files in a folder of this machine, checked against their digests. Raises StorageError."""
        folder = self._cache / model.id
        folder.mkdir(parents=True, exist_ok=True)
        for name, entry in model.files.items():
            _copy(self._store, entry["digest"], folder / name)
        return folder

    def _probe(self, model: Model) -> str | None:
        """A warning when the model answers its own training prompts exactly as its base model does: the weights may not be in use."""
        for messages in _probe_prompts(self._store, model):
            tuned = self._host.answer(model.id, messages, PROBE_TOKENS)
            try:
                base = self._host.answer(model.base_model, messages, PROBE_TOKENS)
            except HostRefused as error:
                # The host may serve the base model under another name; that is no reason not to serve the fine-tuned one.
                return f"Model {model.id} could not be compared with its base model: {error}"
            if tuned != base:
                return None
        return f"Model {model.id} answers the prompts it was tried on exactly as its base model does."


def _tell_jobs(s: Session, model: Model, warning: str | None) -> None:
    """The model is there: the jobs that use it may go on."""
    for job_id in trained.waiting_for(s, model.id):
        row = repository.lock(s, job_id)
        if JobStatus(row.status).is_terminal:
            continue
        if warning is not None:
            service.warn(s, row, f"no_difference:{model.id}", warning)
        trained.release_compiled(s, row)


def _probe_prompts(store: BlobStore, model: Model) -> list[list[dict[str, Any]]]:
    digest = model.settings.get("probe_file")
    if not digest:
        return []
    prompts = []
    with store.open(digest) as file:
        for line in file:
            prompts.append(orjson.loads(line)["prompt"])
            if len(prompts) == PROBE_PROMPTS:
                break
    return prompts


def _copy(store: BlobStore, digest: str, place: Path) -> None:
    if _is_copy(digest, place):
        return
    with store.open(digest) as blob:
        # A name of its own: an agent that was thought dead may still be copying the same file.
        descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(blob, file)
    os.replace(temporary, place)


def _is_copy(digest: str, place: Path) -> bool:
    """By its bytes: a power cut leaves files that have the right size and nothing in them."""
    with suppress(FileNotFoundError), place.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
    return False
