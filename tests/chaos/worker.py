"""`celery -A tests.chaos.worker`: the real worker, which also tells the audit by which fence it publishes, and which a test can break."""

from tests.chaos import breaks
from workers.celery_app import app

__all__ = ["app"]

breaks.tell_fences()
breaks.install()
