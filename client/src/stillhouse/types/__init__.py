"""What the server answers. Unknown fields are kept and unknown statuses are plain strings, so a newer server breaks no older client."""

from stillhouse.types.base import Deleted, Object
from stillhouse.types.compile_jobs import (
    CompileJob,
    Cost,
    Curve,
    Event,
    FineTuneJob,
    JobArtifact,
    JobError,
    JobWarning,
    Progress,
    Queue,
    Rejection,
    Step,
    Trace,
    TrainingFile,
)
from stillhouse.types.requests import JobCreateParams, JobListParams
from stillhouse.types.stored import Artifact, ArtifactCall, ArtifactFile, Dataset, DatasetRow, DatasetRows, Me, Model, Program, Render

__all__ = [
    "Artifact",
    "ArtifactCall",
    "ArtifactFile",
    "CompileJob",
    "Cost",
    "Curve",
    "Dataset",
    "DatasetRow",
    "DatasetRows",
    "Deleted",
    "Event",
    "FineTuneJob",
    "JobArtifact",
    "JobCreateParams",
    "JobError",
    "JobListParams",
    "JobWarning",
    "Me",
    "Model",
    "Object",
    "Program",
    "Progress",
    "Queue",
    "Rejection",
    "Render",
    "Step",
    "Trace",
    "TrainingFile",
]
