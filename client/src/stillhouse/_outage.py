"""What an app sees when a fine-tuned model does not answer: one error, whatever the reason. Needs `stillhouse[dspy]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dspy.utils.exceptions import LMRateLimitError, LMServerError, LMTimeoutError, LMTransportError

from stillhouse._exceptions import ModelUnavailable

_OUTAGES = (LMTransportError, LMTimeoutError, LMServerError, LMRateLimitError)


@contextmanager
def one_error() -> Iterator[None]:
    """Raises ModelUnavailable for an LM that is not reached or cannot answer now; a refused key or request stays dspy's own error."""
    try:
        yield
    except _OUTAGES as error:
        code = str(error.provider_code or error.code)
        raise ModelUnavailable(f"{error.model or 'the model'} does not answer now ({code})", code, error.retry_after) from error
