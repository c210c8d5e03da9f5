"""The rows of a JSONL, CSV, JSON or Parquet file, one at a time. Rows that cannot be read are collected and refused together."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import IO, Any

import orjson

from app.body import parse_json
from app.errors import ApiError
from distill import strict_json
from distill.catalog.fields import MAX_DETAILS
from distill.lines import cut_lines
from distill.settings import get_settings
from distill.strict_json import NotStrict

_CHILD = (sys.executable, "-I", "-m", "app.parquet_rows")


@dataclass(frozen=True)
class BadRow:
    """Stands in the place of a row that cannot be read. `what` goes on after `Row 3`; it never repeats what the row holds."""

    what: str
    field: str | None = None


Read = Iterator[dict[str, Any] | BadRow]


@dataclass
class _Faults:
    total: int = 0
    details: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: int, bad: BadRow) -> None:
        self.total += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append({"row": row, "field": bad.field, "message": bad.what})

    def error(self) -> ApiError:
        first = self.details[0]
        rest = f" {self.total} rows cannot be read." if self.total > 1 else ""
        place = f"[{first['row'] - 1}]" + (f".{first['field']}" if first["field"] else "")
        return ApiError(422, "invalid_rows", f"Row {first['row']} {first['message']}.{rest}", param=place, details=self.details)


def read_rows(file: IO[bytes], kind: str) -> Iterator[dict[str, Any]]:
    """The rows of a file of one of `READERS`.

    Raises ApiError 400 for a body that is no JSON, and 422 `invalid_rows` once the file is read to its end, with the number of every row
    that cannot be read, at most 20 of them; no row is given out after the first such.
    """
    yield from readable(READERS[kind](file))


def readable(rows: Read) -> Iterator[dict[str, Any]]:
    """Rows that were read, if all of them could be; raises as `read_rows`."""
    faults = _Faults()
    for number, row in enumerate(rows, start=1):
        if isinstance(row, BadRow):
            faults.add(number, row)
        elif not faults.total:
            yield row
    if faults.total:
        raise faults.error()


def _object(value: Any) -> dict[str, Any] | BadRow:
    return value if isinstance(value, dict) else BadRow("is not an object")


# ------------------------------------------------------------------ JSON


def _jsonl(file: IO[bytes]) -> Read:
    most = get_settings().limits.max_row_bytes
    return (_line(text, line, most) for line, text in enumerate(cut_lines(file, most), start=1) if text.strip())


def _line(text: bytes, line: int, most: int) -> dict[str, Any] | BadRow:
    if len(text) > most:
        return BadRow(f"(line {line}) is larger than {most} bytes")
    try:
        return _object(strict_json.loads(text))
    except NotStrict as error:
        return BadRow(f"(line {line}) {error.of_one_line}")


def _json(file: IO[bytes]) -> Read:
    return rows_in(parse_json(file.read()))


def rows_in(body: Any) -> Read:
    """The rows of parsed JSON: a list, or an object with `rows`. Raises ApiError 422."""
    rows = body.get("rows") if isinstance(body, dict) else body
    if not isinstance(rows, list):
        raise ApiError(422, "missing_field", 'rows: expected a list of rows, or `{"rows": […]}`', param="rows")
    return map(_object, rows)


# ------------------------------------------------------------------ CSV


_CSV_FAULTS = {"unexpected end of data": "the file ends within a quoted cell, so a closing quote is missing"}


class _TooLong(Exception):
    """More than a row may have."""


class _CsvLines:
    """The lines of a CSV, of which no row gets more than `most` characters: quotes make one row of as many lines as they like."""

    def __init__(self, text: TextIOWrapper, most: int) -> None:
        self._text, self._most = text, most
        self._number = self._left = 0
        self.begin_row()

    def begin_row(self) -> None:
        """What was read before is of a row that is done with."""
        self._left = self._most

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(self._left + 1):
            self._number += 1
            self._left -= len(line)
            if self._left < 0:
                raise _TooLong(f"(line {self._number}) is longer than {self._most} characters")
            yield line


def _csv(file: IO[bytes]) -> Read:
    """Cells stay text: a program's field types decide later what they mean."""
    text = TextIOWrapper(file, encoding="utf-8-sig", newline="")
    most = get_settings().limits.max_row_bytes
    csv.field_size_limit(most)
    try:
        yield from _csv_rows(_CsvLines(text, most))
    except UnicodeDecodeError:
        raise ApiError(422, "invalid_rows", "The CSV is not UTF-8.") from None
    finally:
        if not text.closed:  # else whoever read it has stopped early
            text.detach()


def _csv_rows(lines: _CsvLines) -> Read:
    reader = csv.reader(lines, strict=True)
    try:
        header: list[str] = next(reader, [])
        _check_header(header)
        lines.begin_row()
        for cells in reader:
            lines.begin_row()
            if cells:
                yield _cells(header, cells, reader.line_num)
    except csv.Error as error:
        # The quotes of a CSV say where its rows end: what stands after a wrong one cannot be told.
        yield BadRow(f"(line {reader.line_num}): {_CSV_FAULTS.get(str(error), error)}")
    except _TooLong as error:
        yield BadRow(str(error))


def _check_header(header: list[str]) -> None:
    if not header or not all(name.strip() for name in header) or len(set(header)) != len(header):
        raise ApiError(422, "invalid_rows", "The first line of a CSV names its columns: none empty, none twice.")


def _cells(header: list[str], cells: list[str], line: int) -> dict[str, Any] | BadRow:
    if len(cells) != len(header):
        return BadRow(f"(ends in line {line}) has {len(cells)} cell{'s' * (len(cells) != 1)}, the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


# ------------------------------------------------------------------ Parquet


def _parquet(file: IO[bytes]) -> Read:
    """Read by a child process: a damaged file can take the process that unpacks it down, and unpacked it may be large."""
    with tempfile.TemporaryFile() as whole:
        shutil.copyfileobj(file, whole)
        whole.seek(0)
        child = subprocess.Popen(_CHILD, stdin=whole, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={})
    with child:
        try:
            assert child.stdout is not None  # noqa: S101 - for the type checker; it is a pipe
            yield from _lines_of(child.stdout)
        finally:
            child.kill()


def _lines_of(lines: IO[bytes]) -> Read:
    """A list holds a row, an object says why there is none, and null is the end. What is packed may be of any size."""
    most = get_settings().limits.max_row_bytes
    for line in cut_lines(lines, most + len(b"[]\n")):
        if len(line) > most + len(b"[]\n"):
            yield BadRow(f"is larger than {most} bytes")
            continue
        told = orjson.loads(line)
        if told is None:
            return
        yield told[0] if isinstance(told, list) else BadRow(**told)
    raise ApiError(422, "invalid_rows", "The file is not a Parquet file that can be read.")


READERS: Mapping[str, Callable[[IO[bytes]], Read]] = {"jsonl": _jsonl, "csv": _csv, "json": _json, "parquet": _parquet}
