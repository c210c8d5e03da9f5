"""Training back ends behind one protocol.

``LocalTrainer().start(TrainRequest(folder), TrainCallbacks(...))`` gives a training to wait for or to stop; how it ended is a
TrainOutcome. No back end loads torch in this process.
"""

from distill.trainers.base import (
    CannotCount,
    CounterDied,
    OutcomeKind,
    Room,
    RowTokens,
    TokenCounts,
    TrainCallbacks,
    Trainer,
    Training,
    TrainOutcome,
    TrainProgress,
    TrainRequest,
)
from distill.trainers.local import LocalTrainer, LocalTraining

__all__ = [
    "CannotCount",
    "CounterDied",
    "LocalTrainer",
    "LocalTraining",
    "OutcomeKind",
    "Room",
    "RowTokens",
    "TokenCounts",
    "TrainCallbacks",
    "TrainOutcome",
    "TrainProgress",
    "TrainRequest",
    "Trainer",
    "Training",
]
