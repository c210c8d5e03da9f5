"""JSON Lines: whole lists as one stream, each page read in a transaction of its own, so that a slow reader holds none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Header, Query
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from distill.db import Listing, Page, Session, unit_of_work

Row = TypeVar("Row")
MEDIA_TYPE = "application/jsonl"
ROWS_AT_ONCE = 50

Format = Annotated[Literal["json", "jsonl"] | None, Query(description="`jsonl`: all of them, a line each, oldest first")]
Accept = Annotated[str | None, Header(description="`application/jsonl` asks for the same")]
RESPONSE: dict[int | str, dict[str, Any]] = {200: {"description": "A page; or all of them as JSON Lines", "content": {MEDIA_TYPE: {}}}}


def wants_lines(form: str | None, accept: str | None) -> bool:
    """Whether a request asks for JSON Lines."""
    return form == "jsonl" or (form is None and MEDIA_TYPE in (accept or ""))


def stream(name: str, read: Callable[[Session, Page], Listing[Row]], convert: Callable[[Row], BaseModel]) -> StreamingResponse:
    """Every row of a list as a line. `convert` makes objects with a `cursor`; `name` is the file's, without its ending."""
    return StreamingResponse(_lines(read, convert), media_type=MEDIA_TYPE, headers=attachment(name))


def attachment(name: str) -> dict[str, str]:
    """Headers of a JSON Lines file to be saved."""
    return {"content-disposition": f'attachment; filename="{name}.jsonl"'}


def _lines(read: Callable[[Session, Page], Listing[Row]], convert: Callable[[Row], BaseModel]) -> Iterator[bytes]:
    page, more = Page(ROWS_AT_ONCE, None, "asc"), True
    while more:
        with unit_of_work("api") as session:
            found = read(session, page)
            data = [convert(row) for row in found.data]
        yield b"".join(one.model_dump_json().encode() + b"\n" for one in data)
        more = found.has_more
        page = Page(ROWS_AT_ONCE, str(getattr(data[-1], "cursor", "")) if data else None, "asc")
