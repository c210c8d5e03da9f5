"""Stillhouse: compile DSPy programs on a distillation server, and load what comes out.

from stillhouse import Stillhouse

client = Stillhouse()
job = client.compile_jobs.create(program=spec, trainset=rows, metric="exact_match")
job = client.compile_jobs.wait(job.id, progress=True)
"""

from typing import TYPE_CHECKING, Any

from stillhouse import imports
from stillhouse._client import AsyncStillhouse, Stillhouse
from stillhouse._exceptions import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BodyTooLargeError,
    ConfigError,
    ConflictError,
    DamagedArtifact,
    InvalidName,
    ModelUnavailable,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RateLimitError,
    ServerError,
    ServiceUnavailableError,
    StillhouseError,
    UnexpectedReply,
    UnprocessableEntityError,
    UnsupportedMediaTypeError,
    WaitTimeout,
)
from stillhouse._extras import extra
from stillhouse._house import LM, register_beside_dspy
from stillhouse._load import derive, load
from stillhouse._version import __version__

if TYPE_CHECKING:
    from stillhouse.dropin.optimizer import BootstrapFinetune
    from stillhouse_programs.compact import CompactAdapter

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncStillhouse",
    "AuthenticationError",
    "BadRequestError",
    "BodyTooLargeError",
    "BootstrapFinetune",
    "CompactAdapter",
    "ConfigError",
    "ConflictError",
    "DamagedArtifact",
    "InvalidName",
    "LM",
    "ModelUnavailable",
    "NotFoundError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "RateLimitError",
    "ServerError",
    "ServiceUnavailableError",
    "Stillhouse",
    "StillhouseError",
    "UnexpectedReply",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
    "WaitTimeout",
    "__version__",
    "derive",
    "imports",
    "load",
]

register_beside_dspy()


def __getattr__(name: str) -> Any:
    """Import what needs DSPy, which the light client does without until somebody asks."""
    if name == "BootstrapFinetune":
        with extra("dspy"):
            from stillhouse.dropin.optimizer import BootstrapFinetune

        return BootstrapFinetune
    if name == "CompactAdapter":
        with extra("dspy"):
            from stillhouse_programs.compact import CompactAdapter

        return CompactAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a shell completes to, the drop-in among it."""
    return __all__
