"""Rows in a request: a JSONL, CSV, JSON or Parquet body, or a file in a multipart form. Kept on disk, and read row by row.

Files of the OpenAI-shaped address come in a form too, and are not read.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePath
from typing import IO, Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from app.body import CURL_DEFAULT, JSON_TYPE, media_type, parse_json
from app.errors import ApiError
from app.row_files import read_rows, readable, rows_in
from app.schemas.datasets import DatasetCreate

FORMATS: Mapping[str, str] = {
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    JSON_TYPE: "json",
    CURL_DEFAULT: "json",
}
_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
_IN_MEMORY = 1 << 20
_MULTIPART = "multipart/form-data"


@dataclass
class Upload:
    """A body on disk: its format, the digest of its bytes, and what a form said beside the file."""

    file: IO[bytes]
    format: str
    digest: str
    fields: Mapping[str, str] = field(default_factory=dict)
    in_form: bool = False


async def _spooled(request: Request) -> AsyncIterator[Upload]:
    kind = media_type(request)
    if kind == _MULTIPART:
        async with request.form(max_files=1, max_fields=20, max_part_size=_IN_MEMORY) as form:
            yield await _from_form(form)
        return
    if kind not in FORMATS:
        message = (
            "Send rows as `Content-Type: application/jsonl`, `text/csv`, `application/json` or `application/vnd.apache.parquet`, or a file "
            "in a multipart form."
        )
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
    file = _file_of(form)
    suffix = PurePath(file.filename or "").suffix.lower()
    kind = _BY_SUFFIX.get(suffix) or FORMATS.get((file.content_type or "").split(";")[0].strip().lower())
    if kind is None:
        raise ApiError(415, "unsupported_media_type", "The file's name must end in .jsonl, .csv, .json or .parquet.")
    return Upload(file.file, kind, await _digest_of(file), _texts_of(form), in_form=True)


def _file_of(form: FormData) -> UploadFile:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(422, "missing_field", "file: a multipart form needs the field `file`", param="file")
    return file


async def _digest_of(file: UploadFile) -> str:
    digest = sha256()
    while chunk := await file.read(_IN_MEMORY):
        digest.update(chunk)
    await file.seek(0)
    return digest.hexdigest()


def _texts_of(form: FormData) -> dict[str, str]:
    return {key: value for key, value in form.items() if isinstance(value, str)}


@dataclass(frozen=True)
class Told:
    """What an upload says beside its rows."""

    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def opened(upload: Upload) -> tuple[Told, Iterator[dict[str, Any]]]:
    """What an upload says, and its rows. Raises RequestValidationError for fields that a body of JSON does not have, and as `read_rows`."""
    if upload.format != "json" or upload.in_form:
        return Told(upload.fields.get("name")), rows_of(upload)
    body = parse_json(upload.file.read())
    return _told(body) if isinstance(body, dict) else Told(), readable(rows_in(body))


def _told(body: Mapping[str, Any]) -> Told:
    try:
        read = DatasetCreate.model_validate({**body, "rows": [{}]})
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    return Told(read.name, read.metadata)


def rows_of(upload: Upload) -> Iterator[dict[str, Any]]:
    """The rows, one at a time; see `read_rows`."""
    return read_rows(upload.file, upload.format)


@dataclass
class FormFile:
    """A file of a multipart form, on disk, and the form's other fields. `digest` is of both."""

    file: IO[bytes]
    filename: str
    digest: str
    fields: Mapping[str, str]


async def _form_file(request: Request) -> AsyncIterator[FormFile]:
    if media_type(request) != _MULTIPART:
        raise ApiError(415, "unsupported_media_type", "Send a multipart form with the fields `file` and `purpose`.")
    async with request.form(max_files=1, max_fields=20, max_part_size=_IN_MEMORY) as form:
        file, fields = _file_of(form), _texts_of(form)
        digest = await _digest_of(file)
        for name in sorted(fields):
            digest = sha256(f"{digest}\0{name}\0{fields[name]}".encode()).hexdigest()
        yield FormFile(file.file, PurePath(file.filename or "").name[:255] or "file", digest, fields)


FormFileDep = Annotated[FormFile, Depends(_form_file)]
