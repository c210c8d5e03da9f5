"""A real Celery worker whose steps cannot be imported, as after an upgrade that went wrong half way.

Started as `celery -A tests.integration.core.broken_worker worker`.
"""

import sys

sys.modules["distill.execute.steps"] = None  # type: ignore[assignment]  # Python's own way to say that there is no such module

from workers.celery_app import app  # noqa: E402 - it must not find the steps

__all__ = ["app"]
