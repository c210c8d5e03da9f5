"""Validate of a fine-tuning job: its files are read line by line, and become rows that a trainer takes. No LM is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import orjson
from sqlalchemy import update

from distill.catalog import blobs
from distill.db import Session, unit_of_work
from distill.execute import flow
from distill.execute.ports import Ports
from distill.execute.work import Troubled, Work
from distill.jobs import repository
from distill.jobs.models import FineTuneJob
from distill.lines import cut_lines
from distill.messages import row_digest
from distill.pipeline.chat_rows import BadLine, Record, records
from distill.pipeline.refusals import Reason, Refused, base_model_unusable
from distill.settings import get_settings
from distill.storage import BlobStore, BlobWriter
from distill.trainers.base import CannotCount, CounterDied, TokenCounts, Trainer

_AT_ONCE = 256
"""Lines whose tokens are counted together, unless they come to more bytes than that before."""
_BYTES_AT_ONCE = 8_000_000
MAX_DETAILS = 20
_SHOWN = 3
"""Lines that are named in the message itself."""


@dataclass(frozen=True)
class Rows:
    digest: str
    count: int


@dataclass
class _Faults:
    """Of one file. Lines are 1-based."""

    total: int = 0
    details: list[dict[str, Any]] = field(default_factory=list)
    _last: int = 0

    def add(self, line: int, what: str, path: str | None = None) -> None:
        """A line counts once, whatever else is wrong with it."""
        if line == self._last:
            return
        self._last = line
        self.total += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append({"line": line, "field": path, "message": what})


@dataclass
class _Batch:
    """Records whose tokens are counted together, each with the number of its line."""

    records: list[tuple[int, Record]] = field(default_factory=list)
    lines: int = 0
    _bytes: int = 0

    def add(self, number: int, made: list[Record]) -> None:
        self.lines += 1
        self.records += ((number, record) for record in made)
        self._bytes += sum(len(orjson.dumps(record)) for record in made)

    @property
    def is_full(self) -> bool:
        return self.lines >= _AT_ONCE or self._bytes >= _BYTES_AT_ONCE


def run(work: Work, ports: Ports) -> None:
    """Raises Refused for a file that cannot be trained on, Troubled, Stopped."""
    with unit_of_work() as s:
        key = repository.fine_tune_job(s, work.claim.project_id, work.claim.job_id)
    reading = _Reading(work, ports.store, ports.trainers[key.trainer], key)
    train = reading.rewrite(str(key.training_file), "training_file")
    validation = reading.rewrite(key.validation_file, "validation_file") if key.validation_file else None

    def keep(s: Session) -> None:
        _point_at(s, ports.store, key.id, train, validation)

    counts = {"rows": train.count, "validation_rows": validation.count if validation else 0}
    work.publish(counts=counts, locked=keep, on_closed=flow.after_files)


def _point_at(s: Session, store: BlobStore, key_id: str, train: Rows, validation: Rows | None) -> None:
    """From here on the key points at rows; before, it pointed at the files as they were sent."""
    blobs.register(s, store, train.digest, *([validation.digest] if validation else []))
    values = {
        "training_file": train.digest,
        "rows": train.count,
        "validation_file": validation.digest if validation else None,
        "validation_rows": validation.count if validation else 0,
    }
    s.execute(update(FineTuneJob).where(FineTuneJob.id == key_id).values(**values))


class _Reading:
    """The files of one job, against the trainer that will train on them."""

    def __init__(self, work: Work, store: BlobStore, trainer: Trainer, key: FineTuneJob) -> None:
        self._work, self._store, self._trainer, self._key = work, store, trainer, key

    def rewrite(self, digest: str, param: str) -> Rows:
        """A file as rows, in its order. Raises Refused with the numbers of the lines that cannot be trained on."""
        faults, read, made = _Faults(), 0, 0
        with self._store.open(digest) as file, self._store.writer() as out:
            for some in _batches(file, faults):
                self._write(out, some.records, faults)
                made += len(some.records)
                read += some.lines
                self._work.progress(message=f"{param}: {read} lines are read", done=read)
                self._work.check()
            if faults.total or not read:
                raise Refused(_refusal(param, read, faults))
        return Rows(out.digest, made)

    def _write(self, out: BlobWriter, good: list[tuple[int, Record]], faults: _Faults) -> None:
        counts = self._count([record for _, record in good])
        for (number, record), tokens in zip(good, counts.rows, strict=True):
            if tokens.fault is not None:
                faults.add(number, f"cannot be trained on: {tokens.fault}")
            elif tokens.total > counts.longest:
                faults.add(number, f"has {tokens.total} tokens; a row may have {counts.longest} (`max_seq_length`)")
            elif not faults.total:
                named = {**record, "digest": row_digest(record["prompt"], record["completion"])}
                out.write(orjson.dumps(named) + b"\n")

    def _count(self, rows: list[Record]) -> TokenCounts:
        longest = self._key.options.get("max_seq_length", "auto")
        try:
            return self._trainer.count(self._key.base_model, longest, rows)
        except CannotCount as error:
            raise Refused(replace(base_model_unusable(self._key.base_model, error.message), param="model")) from error
        except CounterDied as error:
            raise Troubled("counter_died", str(error)) from error


def _batches(file: BinaryIO, faults: _Faults) -> Iterator[_Batch]:
    """A file's lines, as many together as may be counted at once."""
    batch = _Batch()
    most = get_settings().limits.max_row_bytes
    for number, line in enumerate(cut_lines(file, most), start=1):
        if not line.strip():
            continue
        batch.add(number, _records(number, line, most, faults))
        if batch.is_full:
            yield batch
            batch = _Batch()
    if batch.lines:
        yield batch


def _records(number: int, line: bytes, most: int, faults: _Faults) -> list[Record]:
    """None of a line that cannot be used."""
    try:
        if len(line) > most:
            raise BadLine(f"is larger than {most} bytes")
        return records(line)
    except BadLine as bad:
        faults.add(number, bad.what, bad.field)
        return []


def _refusal(param: str, read: int, faults: _Faults) -> Reason:
    if not read:
        return Reason("invalid_file", f"{param}: the file is empty.", "validate", param, retryable=False)
    shown = "; ".join(_shown(each) for each in faults.details[:_SHOWN])
    more = f"; and {faults.total - _SHOWN} more" if faults.total > _SHOWN else ""
    message = f"{param}: {faults.total} of {read} lines cannot be used. {shown}{more}. Mend them and send the file again."
    return Reason("invalid_file", message, "validate", param, retryable=False, data={"lines": faults.details, "total": faults.total})


def _shown(fault: dict[str, Any]) -> str:
    place = f" ({fault['field']})" if fault["field"] else ""
    return f"Line {fault['line']} {fault['message']}{place}"
