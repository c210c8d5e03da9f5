"""Rows in a request: a JSONL, CSV or JSON body, or a file in a multipart form. Read as a stream, row by row."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from io import TextIOWrapper
from pathlib import PurePath
from typing import IO, Annotated, Any

import orjson
from fastapi import Depends, Request
from starlette.datastructures import FormData, UploadFile

from app.body import CURL_DEFAULT, JSON_TYPE, media_type, parse_json
from app.errors import ApiError

FORMATS: Mapping[str, str] = {
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "text/csv": "csv",
    JSON_TYPE: "json",
    CURL_DEFAULT: "json",
}
_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json"}
_IN_MEMORY = 1 << 20
_MULTIPART = "multipart/form-data"

csv.field_size_limit(64_000_000)


@dataclass
class Upload:
    """A body on disk: its format, the digest of its bytes, and what a form said beside the file."""

    file: IO[bytes]
    format: str
    digest: str
    fields: Mapping[str, str] = field(default_factory=dict)


async def _spooled(request: Request) -> AsyncIterator[Upload]:
    kind = media_type(request)
    if kind == _MULTIPART:
        async with request.form(max_files=1, max_fields=20, max_part_size=_IN_MEMORY) as form:
            yield await _from_form(form)
        return
    if kind not in FORMATS:
        message = "Send rows as `Content-Type: application/jsonl`, `text/csv` or `application/json`, or a file in a multipart form."
        raise ApiError(415, "unsupported_media_type", message)
    digest = sha256()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        async for chunk in request.stream():
            digest.update(chunk)
            file.write(chunk)
        file.seek(0)
        yield Upload(file, FORMATS[kind], digest.hexdigest())


UploadDep = Annotated[Upload, Depends(_spooled)]


async def _from_form(form: FormData) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(422, "missing_field", "file: a multipart form needs the field `file`", param="file")
    suffix = PurePath(file.filename or "").suffix.lower()
    kind = _BY_SUFFIX.get(suffix) or FORMATS.get((file.content_type or "").split(";")[0].strip().lower())
    if kind is None:
        raise ApiError(415, "unsupported_media_type", "The file's name must end in .jsonl, .csv or .json.")
    digest = sha256()
    while chunk := await file.read(_IN_MEMORY):
        digest.update(chunk)
    await file.seek(0)
    return Upload(file.file, kind, digest.hexdigest(), {key: value for key, value in form.items() if isinstance(value, str)})


def rows_of(upload: Upload) -> Iterator[dict[str, Any]]:
    """The rows, one at a time. Raises ApiError 422 `invalid_rows` with the row and line, or 400 for a body that is no JSON."""
    readers = {"jsonl": _jsonl, "csv": _csv, "json": _json}
    return readers[upload.format](upload.file)


def _jsonl(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    row = 0
    for line, text in enumerate(file, start=1):
        if text.strip():
            row += 1
            yield _object(_line(text, row, line), row)


def _line(text: bytes, row: int, line: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise bad_row(row, f"line {line} column {error.colno} is not valid JSON") from None


def _json(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    body = parse_json(file.read())
    rows = body.get("rows") if isinstance(body, dict) else body
    if not isinstance(rows, list):
        raise ApiError(422, "missing_field", 'rows: expected a list of rows, or `{"rows": […]}`', param="rows")
    return (_object(row, number) for number, row in enumerate(rows, start=1))


def _object(value: Any, row: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_row(row, "is not an object")
    return value


def _csv(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Cells stay text: a program's field types decide later what they mean."""
    text = TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield from _csv_rows(csv.reader(text, strict=True))
    except UnicodeDecodeError:
        raise ApiError(422, "invalid_rows", "The CSV is not UTF-8.") from None
    finally:
        text.detach()


def _csv_rows(reader: Any) -> Iterator[dict[str, Any]]:
    row = 0
    try:
        header: list[str] = next(reader, [])
        _check_header(header)
        for cells in reader:
            if cells:
                row += 1
                yield _cells(header, cells, row, reader.line_num)
    except csv.Error as error:
        raise bad_row(row + 1, f"line {reader.line_num}: {error}") from None


def _check_header(header: list[str]) -> None:
    if not header or not all(name.strip() for name in header) or len(set(header)) != len(header):
        raise ApiError(422, "invalid_rows", "The first line of a CSV names its columns: none empty, none twice.")


def _cells(header: list[str], cells: list[str], row: int, line: int) -> dict[str, Any]:
    if len(cells) != len(header):
        raise bad_row(row, f"(ends in line {line}) has {len(cells)} cells, the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


def bad_row(row: int, what: str) -> ApiError:
    """422 for one row of an upload."""
    return ApiError(422, "invalid_rows", f"Row {row} {what}.", param=f"[{row - 1}]", details=[{"row": row, "field": None, "message": what}])
