"""The files and bodies by which the rest of the system talks to the engines."""

from engines.schemas.counter import CountReply, CountRequest, RowCount
from engines.schemas.trainer import (
    ChatMessage,
    CurveLine,
    EarlyStopping,
    Progress,
    ResolvedOptions,
    TrainerError,
    TrainerJob,
    TrainerResult,
    TrainingRow,
    TrainOptions,
)

__all__ = [
    "ChatMessage",
    "CountReply",
    "CountRequest",
    "CurveLine",
    "EarlyStopping",
    "Progress",
    "ResolvedOptions",
    "RowCount",
    "TrainOptions",
    "TrainerError",
    "TrainerJob",
    "TrainerResult",
    "TrainingRow",
]
