"""Deletions as their callers read them."""

from __future__ import annotations

from app.schemas.common import Deletion
from distill.jobs.erasing import Outlook


def outlook_read(found: Outlook, noun: str) -> Deletion:
    """What would be done."""
    blocked_by = [fault.message for fault in found.blocked_by]
    return Deletion(id=found.id, object=noun, deleted=False, removes=found.removes, blocked_by=blocked_by, notes=found.notes)


def deletion_read(name: str, noun: str) -> Deletion:
    """It is hidden, and what came from it is being removed."""
    return Deletion(id=name, object=noun, deleted=True, removes=None, blocked_by=[], notes=[])
