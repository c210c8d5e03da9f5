"""Datasets: rows as a JSONL blob, an index of byte offsets to read slices, and a summary of the fields made once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import func, select

from distill.catalog import blobs
from distill.catalog.fields import CSV
from distill.catalog.models import Dataset
from distill.catalog.summary import FieldSummary
from distill.db import Listing, Page, Session, paginate
from distill.errors import Invalid, NotFound
from distill.ids import new_id
from distill.settings import get_settings
from distill.storage import BlobStore, BlobWriter

INDEX_EVERY = 1000
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_REFERENCE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})@(?:v(?P<version>[1-9]\d{0,8})|latest)$")


@dataclass(frozen=True, slots=True)
class Written:
    """Rows that are in the blob store, and that nothing points at yet."""

    digest: str
    row_count: int
    size_bytes: int
    offsets: list[int]
    fields: list[dict[str, Any]]
    source_format: str


def write(store: BlobStore, rows: Iterable[Mapping[str, Any]], source_format: str = "jsonl") -> Written:
    """Store rows, before the transaction that makes a dataset of them: they may take longer than a transaction may stand still.

    Rows are read once, as a stream. Raises Invalid for a row that is no object or too large (`param` is `[index]`).
    """
    offsets, summary = [], FieldSummary(as_text=source_format == CSV)
    most = get_settings().limits.max_dataset_rows
    with store.writer() as out:
        for index, row in enumerate(rows):
            if index == most:
                raise _too_many_rows(most)
            if index % INDEX_EVERY == 0:
                offsets.append(out.size_bytes)
            _write(out, index, row)
            _check_size(out)
            summary.add(row)
    return Written(out.digest, summary.rows, out.size_bytes, offsets, summary.as_json(), source_format)


def add(
    s: Session,
    store: BlobStore,
    project_id: str,
    written: Written,
    *,
    created_by: str | None = None,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Dataset:
    """A dataset of the project; with a name it is that name's next version. Raises Invalid for a bad name."""
    check_name(name)
    blobs.register(s, store, written.digest)
    dataset = Dataset(
        id=new_id("ds"),
        project_id=project_id,
        name=name,
        version=_next_version(s, project_id, name) if name else None,
        digest=written.digest,
        row_count=written.row_count,
        size_bytes=written.size_bytes,
        offsets=written.offsets,
        fields=written.fields,
        source_format=written.source_format,
        created_by=created_by,
        user_metadata=dict(metadata or {}),
    )
    s.add(dataset)
    s.flush()
    return dataset


def check_name(name: str | None) -> None:
    """Raises Invalid."""
    if name is not None and not NAME.match(name):
        raise Invalid("name: letters, digits, `.`, `_` and `-`, at most 128", param="name")


def create(
    s: Session, store: BlobStore, project_id: str, rows: Iterable[Mapping[str, Any]], *, source_format: str = "jsonl", **given: Any
) -> Dataset:
    """`write` and `add` in one transaction, for few rows."""
    check_name(given.get("name"))
    return add(s, store, project_id, write(store, rows, source_format), **given)


def _write(out: BlobWriter, index: int, row: Any) -> None:
    if not isinstance(row, Mapping):
        raise Invalid(f"row {index + 1} is not an object", code="invalid_rows", param=f"[{index}]")
    try:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        orjson.dumps(row)  # refuses integers of more than 64 bits, which no runner could be sent
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        raise Invalid(f"row {index + 1} is not plain JSON", code="invalid_rows", param=f"[{index}]") from None
    if len(line) > get_settings().limits.max_row_bytes:
        raise Invalid(
            f"row {index + 1} is larger than {get_settings().limits.max_row_bytes} bytes", code="row_too_large", param=f"[{index}]"
        )
    out.write(line + b"\n")


def _check_size(out: BlobWriter) -> None:
    """A file that is packed may hold far more than its own size."""
    most = get_settings().limits.max_dataset_mb
    if out.size_bytes > most * 1_000_000:
        raise Invalid(f"the rows are larger than {most} MB; upload them in parts", code="dataset_too_large", param="rows")


def _too_many_rows(most: int) -> Invalid:
    """Rows of a byte or two are small, and as much work as others."""
    message = f"there are more than {most:,} rows ([limits] max_dataset_rows); upload them in parts"
    return Invalid(message, code="dataset_too_large", param="rows")


def _next_version(s: Session, project_id: str, name: str) -> int:
    # Two uploads of one name get two versions: the second waits here until the first has committed.
    s.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{project_id}/{name}", 0))))
    newest = s.scalar(select(func.max(Dataset.version)).where(Dataset.project_id == project_id, Dataset.name == name))
    return (newest or 0) + 1


def resolve(s: Session, project_id: str, reference: str, param: str = "trainset") -> Dataset:
    """A dataset by id, `name@v3` or `name@latest`. Raises NotFound."""
    query = select(Dataset).where(Dataset.project_id == project_id, Dataset.deleted_at.is_(None))
    if named := _REFERENCE.match(reference):
        query = query.where(Dataset.name == named["name"])
        if named["version"]:
            query = query.where(Dataset.version == int(named["version"]))
        query = query.order_by(Dataset.version.desc()).limit(1)
    else:
        query = query.where(Dataset.id == reference)
    return _found(s.scalar(query), reference, param)


def by_id(s: Session, dataset_id: str) -> Dataset:
    """A job's dataset, deleted or not. Raises NotFound."""
    row = s.get(Dataset, dataset_id)
    if row is None:
        raise NotFound(f"no dataset {dataset_id}", code="dataset_not_found")
    return row


def list_datasets(s: Session, project_id: str, page: Page, name: str | None = None) -> Listing[Dataset]:
    query = select(Dataset).where(Dataset.project_id == project_id, Dataset.deleted_at.is_(None))
    return paginate(s, query.where(Dataset.name == name) if name else query, Dataset.id, page)


def lock(s: Session, project_id: str, reference: str) -> Dataset:
    """As `resolve`, for whoever deletes it: waits for jobs that are being made over it. Raises NotFound."""
    return _held(s, resolve(s, project_id, reference, param="id"), reference, "id", read=False)


def hold_by_id(s: Session, dataset_id: str) -> Dataset:
    """As `by_id`; until the transaction ends it is not deleted."""
    query = select(Dataset).where(Dataset.id == dataset_id).with_for_update(read=True)
    return s.execute(query.execution_options(populate_existing=True)).scalar_one()


def hold(s: Session, project_id: str, reference: str, param: str) -> Dataset:
    """As `resolve`; until the transaction ends it is not deleted. Raises NotFound."""
    return _held(s, resolve(s, project_id, reference, param), reference, param, read=True)


def _held(s: Session, row: Dataset, reference: str, param: str, *, read: bool) -> Dataset:
    """The row under a lock, unless it was deleted meanwhile."""
    s.refresh(row, with_for_update={"read": read})
    return _found(None if row.deleted_at is not None else row, reference, param)


def _found(row: Dataset | None, reference: str, param: str) -> Dataset:
    if row is None:
        raise NotFound(f"{param}: no dataset {reference}", code="dataset_not_found", param=param)
    return row


def rows(store: BlobStore, dataset: Dataset, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
    """Stream rows `start` (0-based) up to, not including, `stop`; at most 999 rows before `start` are skipped over."""
    stop = dataset.row_count if stop is None else min(stop, dataset.row_count)
    if start >= stop:
        return
    with store.open(dataset.digest) as file:
        file.seek(dataset.offsets[start // INDEX_EVERY])
        for line in islice(file, start % INDEX_EVERY, start % INDEX_EVERY + stop - start):
            yield json.loads(line)


def picked(store: BlobStore, dataset: Dataset, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Rows by number (0-based), in one pass over the file; numbers that the dataset does not have are left out."""
    found: dict[int, dict[str, Any]] = {}
    with store.open(dataset.digest) as file:
        here = 0
        for number in sorted({number for number in numbers if 0 <= number < dataset.row_count}):
            block = number // INDEX_EVERY
            if block * INDEX_EVERY > here:
                here = block * INDEX_EVERY
                file.seek(dataset.offsets[block])
            for line in islice(file, number - here, number - here + 1):
                found[number] = json.loads(line)
            here = number + 1
    return found
