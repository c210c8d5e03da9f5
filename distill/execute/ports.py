"""What the steps reach out through: blobs, LMs, runners, trainers. One set a process, made once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.db import unit_of_work
from distill.execute.hooks import crash_point
from distill.jobs import bundle_use, repository
from distill.relay import Relay, RelayLimits, Replies, connections_for
from distill.rollouts import RunnerPool
from distill.sandbox import choose_for
from distill.settings import Settings
from distill.storage import BlobStore, open_store
from distill.trainers.base import Trainer
from distill.trainers.local import LocalTrainer

log = structlog.get_logger(__name__)

_SHARE_OF_FILES = 2
"""Part of the files that this process may open."""


@dataclass(frozen=True)
class Ports:
    """`work_root` is a folder of this machine that outlives the process: trainers leave their checkpoints there."""

    store: BlobStore
    relay: Relay
    runners: RunnerPool
    trainers: Mapping[str, Trainer]
    work_root: Path

    def close(self) -> None:
        """End the children and the relay."""
        self.runners.close()
        for trainer in self.trainers.values():
            trainer.rest()
        self.relay.stop()


def open_ports(settings: Settings) -> Ports:
    """Find the sandbox, start the relay and the pool of runners (no runner starts before it is needed)."""
    limits = RelayLimits.of(settings.timers, settings.limits, connections_for(_SHARE_OF_FILES))
    relay = Relay(limits, settings.egress.hosts, Replies.of(settings))
    sandbox = choose_for(settings)
    log.info("sandbox", rung=sandbox.rung.name if sandbox.rung else "none", why=sandbox.why)
    store = open_store(settings, passing=crash_point)
    runners = RunnerPool(
        relay.start(),
        settings.pythons,
        sandbox=sandbox,
        references=settings.references,
        bundles=bundle_use.source(store, accept=settings.bundles.accept),
        over=jobs_over,
    )
    return Ports(
        store=store,
        relay=relay,
        runners=runners,
        trainers={"local": LocalTrainer()},
        work_root=settings.home.absolute() / "work",
    )


def jobs_over(jobs: Collection[str]) -> Collection[str]:
    """Those of the jobs of which nothing may run any more; none while the database does not say."""
    try:
        with unit_of_work(waits=False) as s:  # it is asked again soon
            return repository.over_among(s, jobs)
    except SQLAlchemyError as error:
        log.warning("jobs_over_unknown", error=str(error), kind=type(error).__name__)
        return ()
