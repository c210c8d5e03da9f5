"""A process that reads a Parquet file from its stdin and writes its rows to its stdout, one JSON line each.

A line is `[row]`, or `{"what", "field"}` for a row that JSON cannot hold; `null` is the last. A file that cannot be read ends the process
without it.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any

import arro3.io
import orjson

_BATCH_ROWS = 256
_MOST_MEMORY = 4 << 30
_MOST_CPU_SECONDS = 600


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU_SECONDS, _MOST_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(0, "rb", closefd=False) as file:
        for line in parquet_lines(file):
            sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.write(b"null\n")
    sys.stdout.buffer.flush()


def parquet_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file's rows. Read in batches, so that it is never in memory as a whole."""
    for batch in arro3.io.read_parquet(file, batch_size=_BATCH_ROWS):
        names = list(batch.column_names)
        if len(set(names)) != len(names):
            raise ValueError("two columns have the same name")
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield _line(names, cells)


def _line(names: Sequence[str], cells: Sequence[Any]) -> bytes:
    row = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            row[name] = _plain(cell)
        except ValueError as error:
            return orjson.dumps({"what": f"cannot be written as JSON: `{name}` holds {error}", "field": name})
    return orjson.dumps([row])


def _plain(value: Any) -> Any:
    """A value as JSON: dates as ISO 8601, decimals as numbers. Raises ValueError."""
    if value is None or isinstance(value, str | bool | int):
        return value
    for kind, make in _PLAIN.items():
        if isinstance(value, kind):
            return make(value)
    raise ValueError(f"a {type(value).__name__}")


def _number(value: float | Decimal) -> int | float:
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else float(value)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("bytes that are not text in UTF-8") from None


def _items(value: list[Any]) -> Any:
    """A list; a map comes as a list of pairs."""
    if value and all(isinstance(item, tuple) for item in value):
        return {str(key): _plain(item) for key, item in value}
    return [_plain(item) for item in value]


_PLAIN: Mapping[type, Callable[[Any], Any]] = {
    float: _number,
    Decimal: _number,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    bytes: _text,
    list: _items,
    dict: lambda value: {key: _plain(item) for key, item in value.items()},
}

if __name__ == "__main__":
    main()
