"""`celery -A tests.chaos.worker`: the real worker, which a test can break; audit and teacher hear who acts."""

from tests.chaos import breaks
from workers.celery_app import app

__all__ = ["app"]

breaks.tell_fences()
breaks.tell_worker()
breaks.install()
