"""The files and bodies by which the rest of the system talks to the engines."""

from engines.schemas.counter import CountReply, CountRequest, ResolveRequest, RowCount
from engines.schemas.options import EarlyStopping, ResolvedOptions, TrainOptions
from engines.schemas.trainer import (
    ChatMessage,
    CurveLine,
    Progress,
    TrainerError,
    TrainerJob,
    TrainerResult,
    TrainingRow,
)

__all__ = [
    "ChatMessage",
    "CountReply",
    "CountRequest",
    "CurveLine",
    "EarlyStopping",
    "Progress",
    "ResolveRequest",
    "ResolvedOptions",
    "RowCount",
    "TrainOptions",
    "TrainerError",
    "TrainerJob",
    "TrainerResult",
    "TrainingRow",
]
