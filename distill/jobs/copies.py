"""Copies of erased rows among the files of OpenAI's address: rows or training files that were downloaded and sent in again.

They are known by their bytes, which are the same at every download; a training file is read for them once, outside of requests.
Fine-tuning jobs that read copies have the rows, too.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import get_args

import structlog
from sqlalchemy import func, select, update

from distill.catalog import audit
from distill.catalog.models import Blob, File
from distill.db import Session, unit_of_work
from distill.errors import StorageError
from distill.jobs import clearing, erasing_sql, quotas
from distill.jobs.collecting import Refusals
from distill.jobs.models import Job
from distill.jobs.records import RecordFormat, records
from distill.jobs.status import JobKind
from distill.storage import BlobStore

log = structlog.get_logger(__name__)

ROUND_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """Files by their ids, and how many training files are not read yet, of which there may be copies."""

    files: list[str]
    unread: int = 0


def find(s: Session, project_id: str, jobs: Sequence[str], digests: Iterable[str]) -> Found:
    """The project's files that are one of these blobs or a training file of these jobs, as it is stored or downloaded."""
    sent = select(File.id, File.digest).where(File.project_id == project_id, File.digest != "")
    files = s.execute(sent.order_by(File.id)).all()
    if not files:
        return Found([])
    stored = s.execute(erasing_sql.TRAINING_FILES, {"jobs": list(jobs)}).all()
    same = {*digests, *(row.digest for row in stored), *(copy for row in stored for copy in row.downloads or ())}
    return Found([row.id for row in files if row.digest in same], sum(row.downloads is None for row in stored))


def read_new(store: BlobStore, stopping: threading.Event) -> None:
    """Read training files that were not read for their downloads yet, so that a dry run of a deletion can count copies.

    Goes on after one that cannot be read, for about a minute: after an upgrade there may be hours of them, and other work waits.
    Raises StorageUnreachable.
    """
    with unit_of_work() as s:
        unread = list(s.scalars(erasing_sql.NEW_TRAINING_FILES))
    refusals, deadline = Refusals("training files not read"), time.monotonic() + ROUND_SECONDS
    for digest in unread:
        if stopping.is_set() or time.monotonic() > deadline:
            break
        with refusals.noted(digest):
            _read(store, digest)
    refusals.log()


def read(store: BlobStore, jobs: Sequence[str], stopping: threading.Event) -> None:
    """Read the training files of these jobs that were not read yet, but those whose blob is missing or damaged. Raises StorageError."""
    with unit_of_work() as s:
        unread = [row.digest for row in s.execute(erasing_sql.TRAINING_FILES, {"jobs": list(jobs)}) if row.downloads is None]
    for digest in unread:
        if stopping.is_set():
            return
        try:
            _read(store, digest)
        except StorageError as error:
            if error.code not in ("blob_missing", "blob_damaged"):
                raise
            log.warning("copies of a training file not looked for", digest=digest, reason=error.code)


def _read(store: BlobStore, digest: str) -> None:
    """Outside of any transaction: a large file of a slow store takes minutes."""
    found = [_download(store, digest, form) for form in get_args(RecordFormat)]
    with unit_of_work() as s:
        s.execute(update(Blob).where(Blob.digest == digest).values(downloads=[copy for copy in found if copy is not None]))


def _download(store: BlobStore, digest: str, form: RecordFormat) -> str | None:
    """The digest of a download. None for what cannot be made."""
    content = sha256()
    try:
        for line in records(store.open(digest), form):
            content.update(line)
    except (ValueError, TypeError, KeyError) as error:
        log.warning("copies of a training file not looked for", digest=digest, form=form, kind=type(error).__name__)
        return None
    return f"sha256:{content.hexdigest()}"


def remove(project_id: str, files: Sequence[str], stopping: threading.Event, count: Callable[[Session, Mapping[str, int]], None]) -> bool:
    """Erase files, and the details of fine-tuning jobs that read them; models stay. False while such a job is not over."""
    for file_id in files:
        with unit_of_work() as s:
            quotas.hold_jobs(s, project_id)
            hidden = update(File).where(File.id == file_id, File.deleted_at.is_(None)).values(deleted_at=func.clock_timestamp())
            if s.scalar(hidden.returning(File.id)) is not None:
                audit.record(s, project_id, "file.deleted", file_id)
        with unit_of_work() as s:
            own = (Job.project_id == project_id, Job.kind == str(JobKind.FINE_TUNE), Job.erased_at.is_(None))
            jobs = list(s.scalars(select(Job.id).where(*own, Job.spec.contains(f'"{file_id}"', autoescape=True))))
        if not all(_clear(project_id, job_id, stopping, count) for job_id in jobs):
            return False
        with unit_of_work() as s:
            digest = s.scalar(select(File.digest).where(File.id == file_id).with_for_update())
            s.execute(update(File).where(File.id == file_id).values(digest="", filename="", size_bytes=0))
            clearing.remove_mentions(s, project_id, file_id)
            count(s, {"files": 1, "blobs": clearing.let_go(s, [digest or ""])})
    return True


def _clear(project_id: str, job_id: str, stopping: threading.Event, count: Callable[[Session, Mapping[str, int]], None]) -> bool:
    def finish(s: Session, found: Counter[str]) -> None:
        s.execute(erasing_sql.PROBES, {"job_id": job_id})
        clearing.remove_mentions(s, project_id, job_id)
        count(s, found)

    return clearing.clear_job(job_id, stopping, finish)
