"""Waiting until the server has a loaded program's own models loaded. Needs `stillhouse[dspy]`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIConnectionError, ModelUnavailable, RateLimitError, ServerError
from stillhouse_programs.tuned_provider import PROVIDER

LOOKS = 120
_LOOK_EVERY_SECONDS = 1.0
_SOON, _LATER = 5.0, 60.0


def wait_for_models(program: dspy.Module, client: Stillhouse) -> None:
    """Return when all are loaded; no LM is asked. Raises ModelUnavailable, and NotFoundError for a model that was deleted."""
    looks = count()
    prefix = f"{PROVIDER}/"
    own = (predictor.lm.model for predictor in program.predictors() if predictor.lm is not None)
    for model in dict.fromkeys(name.removeprefix(prefix) for name in own if name.startswith(prefix)):
        _wait_for(model, client, looks)


def _wait_for(model: str, client: Stillhouse, looks: Iterator[int]) -> None:
    while (status := _status(model, client)) != "loaded":
        if status == "failed":
            raise _unavailable(model, "model_failed", _LATER)
        if next(looks) == LOOKS:
            raise _unavailable(model, "model_loading", _SOON)
        client.pause(_LOOK_EVERY_SECONDS)


def _status(model: str, client: Stillhouse) -> str:
    try:
        return client.models.retrieve(model).status
    except APIConnectionError as error:
        raise _unavailable(model, "transport", None) from error
    except (ServerError, RateLimitError) as error:
        raise _unavailable(model, error.code or "server_error", error.retry_after) from error


def _unavailable(model: str, code: str, retry_after: float | None) -> ModelUnavailable:
    return ModelUnavailable(f"{model} is not loaded on the server ({code})", code, retry_after)
