"""The files and bodies by which the rest of the system talks to the engines."""

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
    "CurveLine",
    "EarlyStopping",
    "Progress",
    "ResolvedOptions",
    "TrainOptions",
    "TrainerError",
    "TrainerJob",
    "TrainerResult",
    "TrainingRow",
]
