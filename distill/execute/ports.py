"""What the steps reach out through: blobs, LMs, runners, trainers. One set a process, made once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.execute.hooks import crash_point
from distill.relay import Relay, RelayLimits
from distill.rollouts import RunnerPool
from distill.settings import Settings
from distill.storage import BlobStore, open_store
from distill.trainers.base import Trainer
from distill.trainers.local import LocalTrainer


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
    """Start the relay and the pool of runners (no runner starts before it is needed)."""
    relay = Relay(RelayLimits.of(settings.timers))
    return Ports(
        store=open_store(settings, passing=crash_point),
        relay=relay,
        runners=RunnerPool(relay.start(), settings.pythons, references=settings.references),
        trainers={"local": LocalTrainer()},
        work_root=settings.home.absolute() / "work",
    )
