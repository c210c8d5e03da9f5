"""Blobs that no row has pointed at for a day are removed, and what writers have left that were killed.

A blob is marked when it is first found unused, and removed when it has stayed so. Whoever points at one registers it, which holds its row
(`distill.catalog.blobs`). A removal holds that row too, looks again, and only then removes: either the collector or the one who points
waits for the other, and then sees what was done. A blob that the store refuses to remove is tried again in the next round. The
database's clock decides how old something is: this process's clock may jump.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import structlog
from sqlalchemy import text

from distill.catalog import blobs
from distill.db import Session, now, readable, unit_of_work
from distill.errors import StorageError, StorageUnreachable
from distill.storage import BlobStore
from distill.storage.base import Stored

log = structlog.get_logger(__name__)

_OF_PROJECT = f"""
    SELECT d.project_id, d.digest FROM datasets d WHERE d.deleted_at IS NULL OR EXISTS (
        SELECT 1 FROM jobs j WHERE d.id IN (j.trainset_id, j.valset_id) AND j.status NOT IN ('succeeded', 'failed', 'cancelled'))
    UNION ALL SELECT project_id, digest FROM files WHERE deleted_at IS NULL
    UNION ALL SELECT project_id, blob FROM bundles WHERE deleted_at IS NULL
    UNION ALL SELECT project_id, f.value->>'digest' FROM models, json_each(files) f WHERE deleted_at IS NULL
    UNION ALL SELECT project_id, settings->>'probe_file' FROM models WHERE deleted_at IS NULL
    UNION ALL SELECT project_id, f.value->>'digest' FROM artifacts, json_each(files) f WHERE deleted_at IS NULL
    UNION ALL SELECT t.project_id, f.value->>'digest'
                FROM checkpoints c JOIN fine_tune_jobs t ON t.id = c.fine_tune_job_id, json_each(c.files) f
    UNION ALL SELECT project_id, d FROM fine_tune_jobs, unnest(ARRAY[training_file, validation_file, checkpoint, curve, log]) d
    UNION ALL SELECT project_id, {readable("plan")}->>'split' FROM jobs
    UNION ALL SELECT j.project_id, {readable("w.result")}->>'part' FROM work_items w JOIN jobs j ON j.id = w.job_id WHERE w.step = 'prepare'
"""  # noqa: S608 - no value is put in
"""Every column that holds a blob's digest, with whose it is. A test compares it with all digests that a finished job has left in any
column. What was deleted does not count, but for a dataset whose job, of an earlier release, is not over."""
POINTED = f"SELECT digest FROM ({_OF_PROJECT}) of_project(project_id, digest)"  # noqa: S608 - no value is put in
OF_PROJECT = f"SELECT DISTINCT digest FROM ({_OF_PROJECT}) p(project_id, digest) WHERE project_id = :project_id AND digest IS NOT NULL"  # noqa: S608

_TURN = text("""
INSERT INTO server_meta (key, value) VALUES ('collected_at', clock_timestamp()::text)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
WHERE server_meta.value::timestamptz <= clock_timestamp() - make_interval(secs => :seconds) RETURNING key""")
_BEAT = text("UPDATE server_meta SET value = clock_timestamp()::text WHERE key = 'collected_at'")
_UNMARK = text(f"""
UPDATE blobs SET unused_since = NULL WHERE unused_since IS NOT NULL AND EXISTS
  (SELECT 1 FROM ({POINTED}) p WHERE p.digest = blobs.digest)""")  # noqa: S608 - no value is put in
_MARK = text(f"""
UPDATE blobs SET unused_since = clock_timestamp() WHERE unused_since IS NULL AND NOT EXISTS
  (SELECT 1 FROM ({POINTED}) p WHERE p.digest = blobs.digest)""")  # noqa: S608
_DUE = text("""
SELECT digest FROM blobs WHERE unused_since <= clock_timestamp() - make_interval(secs => :seconds)
   AND digest > :after ORDER BY digest LIMIT 1 FOR UPDATE SKIP LOCKED""")
_IS_POINTED = text(f"SELECT EXISTS (SELECT 1 FROM ({POINTED}) p WHERE p.digest = :digest)")  # noqa: S608
_ERASED = text("""
SELECT digest FROM blobs WHERE unused_since = 'epoch' AND digest > :after ORDER BY digest LIMIT 1 FOR UPDATE SKIP LOCKED""")
_FORGET = text("DELETE FROM blobs WHERE digest = :digest")
_STARTS_ANEW = text("UPDATE blobs SET unused_since = clock_timestamp() WHERE digest = :digest")
_KNOWN = text("SELECT digest FROM blobs WHERE digest = ANY(:digests)")
_ADOPT = text("""
INSERT INTO blobs (digest, size_bytes, unused_since) VALUES (:digest, :size, to_timestamp(:put_at))
ON CONFLICT (digest) DO NOTHING""")
# Longer than the bucket of a slow server may take: a transaction that is ended from outside lets go of the row.
_UNHURRIED = text("SET LOCAL idle_in_transaction_session_timeout = 0")


_AT_ONCE = 1000


@dataclass(frozen=True)
class Collected:
    """How many blobs, and bytes, a round has removed, and how many leftovers of killed writers."""

    blobs: int
    size_bytes: int
    unfinished: int


@dataclass
class Refusals:
    """The blobs of which a store refused something in one round, and the reason for the first; `event` is what the log calls it."""

    event: str
    number: int = 0
    first: tuple[str | None, str] = (None, "")

    @contextmanager
    def noted(self, digest: str | None) -> Iterator[None]:
        """Let a refusal pass, so that the round goes on with other blobs; nothing goes on while the store does not answer."""
        try:
            yield
        except StorageUnreachable:
            self.log()
            raise
        except StorageError as error:
            self.number += 1
            if self.number == 1:
                self.first = (digest, str(error))

    def log(self) -> None:
        if self.number:
            log.warning(self.event, number=self.number, digest=self.first[0], error=self.first[1])


def collect(store: BlobStore, after_seconds: float, period_seconds: float, stopping: threading.Event) -> Collected | None:
    """One round, unless another process is at it or was lately: then None. Raises StorageError, also for another database's store."""
    with unit_of_work() as s:
        blobs.check_store(s, store)
        if s.execute(_TURN, {"seconds": period_seconds}).first() is None:
            return None
        before = now(s).timestamp() - after_seconds
    _adopt(store, before, stopping)
    with unit_of_work() as s:
        s.execute(_UNMARK)
        s.execute(_MARK)
    removed = _remove_due(store, after_seconds, stopping)
    return Collected(len(removed), sum(removed), store.clear_unfinished(before))


def _adopt(store: BlobStore, before: float, stopping: threading.Event) -> None:
    """Blobs that were put long ago and that nobody has registered, since whoever put them was killed, are unused blobs too."""
    old = (blob for blob in store.listing() if blob.put_at <= before)
    while (some := list(islice(old, _AT_ONCE))) and not stopping.is_set():
        with unit_of_work() as s:
            s.execute(_BEAT)
            known = set(s.scalars(_KNOWN, {"digests": [blob.digest for blob in some]}))
            for blob in some:
                if blob.digest not in known:
                    s.execute(_ADOPT, {"digest": blob.digest, "size": blob.size_bytes, "put_at": blob.put_at})


def _remove_due(store: BlobStore, after_seconds: float, stopping: threading.Event) -> list[int]:
    """One blob a transaction, by digest; the sizes of those that are gone."""
    removed: list[int] = []
    refusals = Refusals("blobs not removed")
    digest: str | None = ""
    while digest is not None and not stopping.is_set():
        with unit_of_work() as s:
            s.execute(_UNHURRIED)
            s.execute(_BEAT)
            digest = s.scalar(_DUE, {"seconds": after_seconds, "after": digest})
            with refusals.noted(digest):
                if digest is not None and (gone := _remove(s, store, digest, after_seconds)) is not None:
                    removed.append(gone)
    refusals.log()
    return removed


def remove_erased(store: BlobStore, stopping: threading.Event) -> None:
    """Remove blobs that only erased rows pointed at, without waiting a day. Raises StorageUnreachable.

    A writer that puts one of them again meanwhile gets `blob_missing`, and puts it once more.
    """
    refusals = Refusals("blobs not removed")
    digest: str | None = ""
    while digest is not None and not stopping.is_set():
        with unit_of_work() as s:
            s.execute(_UNHURRIED)
            digest = s.scalar(_ERASED, {"after": digest})
            with refusals.noted(digest):
                if digest is not None and not s.scalar(_IS_POINTED, {"digest": digest}):
                    store.remove(digest)
                    s.execute(_FORGET, {"digest": digest})
    refusals.log()


def _remove(s: Session, store: BlobStore, digest: str, after_seconds: float) -> int | None:
    """Its row is held, so that nobody points at it now who had not done so before."""
    if s.scalar(_IS_POINTED, {"digest": digest}):
        return None
    found = _stat(store, digest)
    if found is not None and found.put_at > now(s).timestamp() - after_seconds:
        s.execute(_STARTS_ANEW, {"digest": digest})  # it was put again, by somebody who is about to point at it
        return None
    store.remove(digest)
    s.execute(_FORGET, {"digest": digest})
    return found.size_bytes if found else 0


def _stat(store: BlobStore, digest: str) -> Stored | None:
    try:
        return store.stat(digest)
    except StorageError as error:
        if error.code != "blob_missing":
            raise
        return None
